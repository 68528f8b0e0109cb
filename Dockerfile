# The image that other images take `runner` from: COPY --from=IMAGE /runner /usr/local/bin/runner
# It holds the static binary and nothing else; the certificates of public authorities are inside the binary.
#
#   docker build .                      compiles it here
#   docker build --target prebuilt .    takes target/release/runner, which `./dev build` makes, and needs no other image

FROM scratch AS prebuilt
COPY target/release/runner /runner
ENTRYPOINT ["/runner"]

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# .cargo/config.toml names the target, so the binary lands one folder deeper than usual.
RUN cargo build --release --locked --bin runner \
 && cp target/*/release/runner /runner

FROM scratch
COPY --from=build /runner /runner
ENTRYPOINT ["/runner"]
