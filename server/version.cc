#include "server/version.h"

namespace goldfinch {

const char kVersion[] = GOLDFINCH_VERSION;

}  // namespace goldfinch
