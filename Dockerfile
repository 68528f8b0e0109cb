# The image from which other images copy `runner`: COPY --from=IMAGE /runner /usr/local/bin/runner
# It contains only the static binary, which includes the certificates of public authorities.
#
#   docker build .                      compiles the binary
#   docker build --target prebuilt .    copies target/release/runner from `./dev build`, and needs no other image

FROM scratch AS prebuilt
COPY target/release/runner /runner
ENTRYPOINT ["/runner"]

# The newest compiler; Cargo.toml's rust-version is the minimum.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# .cargo/config.toml sets the target, so the binary is one folder deeper than usual.
RUN cargo build --release --locked --bin runner \
 && cp target/*/release/runner /runner

FROM scratch
COPY --from=build /runner /runner
ENTRYPOINT ["/runner"]
