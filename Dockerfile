# The server and its client on Debian 12, serving the demo model.
#
#   docker build -t goldfinch:0.1.0 .
#   docker run --stop-timeout=35 -p 127.0.0.1:50051:50051 goldfinch:0.1.0
#   docker run --stop-timeout=35 -p 127.0.0.1:50051:50051 -v /path/to/model:/model:ro \
#     goldfinch:0.1.0 --model=/model --listen=0.0.0.0:50051 --metrics=0.0.0.0:9464 \
#     --insecure_allow_anonymous
#
# docker stop waits 10 seconds unless it is told otherwise, and then kills: give it
# --drain_seconds, 30 by default, and five more.
#
# An image that goes to other machines has a tag of its own for each build, and names the
# commit, which is not in the context (docs/operations.md, "Kubernetes"):
#
#   docker build --build-arg GOLDFINCH_REVISION="$tag" -t REGISTRY/goldfinch:"$tag" .
#
# Without a tenants file whoever reaches the port may call: publish it to the loopback
# address, as above, or mount a file and give --tenants_file instead.

FROM debian:bookworm AS build
WORKDIR /src
# By itself, so that a change of the sources does not install everything again.
COPY scripts/install_deps.sh scripts/
RUN scripts/install_deps.sh && rm -rf /var/lib/apt/lists/*
COPY . .
ARG GOLDFINCH_REVISION=
RUN cmake --preset release -DGOLDFINCH_TESTS=OFF -DGOLDFINCH_BENCH=OFF \
      -DGOLDFINCH_REVISION="$GOLDFINCH_REVISION" \
 && cmake --build --preset release --target goldfinch-server goldfinch \
 && strip build/release/bin/goldfinch-server build/release/bin/goldfinch

FROM debian:bookworm-slim
# What the two programs are linked with; the rest follows from these.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends \
      libgrpc++1.51 libprometheus-cpp-pull1.0 libcivetweb1 libprotobuf32 libspdlog1.10 \
      libhiredis0.14 libssl3 libxxhash0 libcurl4 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin goldfinch
COPY --from=build /src/build/release/bin/goldfinch-server /src/build/release/bin/goldfinch /usr/local/bin/
COPY models/demo /opt/goldfinch/models/demo
USER 10001:10001
EXPOSE 50051 9464
# Loading a large model takes a while; failures before it is done do not count. --wait is
# just under the timeout: without it an answer has a second, and a busy server is late. With
# another --listen change the port. With TLS add --tls_ca, --tls_server_name where the
# certificate is not of 127.0.0.1, and where --tls_client_ca is set --tls_cert and
# --tls_key; all of it in `docker run --health-cmd`, or here.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
  CMD ["goldfinch", "health", "--server=127.0.0.1:50051", "--wait=2.5"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["goldfinch-server"]
CMD ["--model=/opt/goldfinch/models/demo", "--listen=0.0.0.0:50051", "--metrics=0.0.0.0:9464", "--insecure_allow_anonymous=true"]
