// What every error of this room is looked at for: it may tell a person what was wrong,
// and nothing about the machine or about others.
//
// In this room tenants are called "...-tenant", their keys "key-of-..." and whatever else
// nobody may hear of has "canary" in it, so that one rule finds them all.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

namespace goldfinch {

// Fails the test if the text names an address, a path, a pointer, a source file, a
// tenant, a key or a canary.
void ExpectTellsNothing(const std::string& text);

// The status itself, after its message and details were looked at. A connection that
// could not be made is the client library's own error and may say where.
grpc::Status Checked(grpc::Status status);

// It says when to try again, in the form of google.rpc.RetryInfo.
bool CarriesRetryInfo(const grpc::Status& status);

}  // namespace goldfinch
