# The server in an image without a shell. Needs nothing but what is in this directory:
#
#   docker build -t engramia:0.1.0 --build-arg GIT_COMMIT=$(git rev-parse HEAD) --build-arg BUILD_TIME=$(date -uIs) .

# The Debian release of the runtime image below: what is linked here must be there. `slim` has gcc and the headers of the
# C library, which SQLite and the TLS library are built with.
FROM rust:1.95-slim-bookworm AS builder
WORKDIR /build

# The dependencies are a layer of their own, built around an empty program: it changes with these two files only.
COPY Cargo.toml Cargo.lock ./
RUN sed -i '/^\[\[\(test\|bench\)\]\]$/,/^$/d' Cargo.toml \
 && mkdir src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs \
 && cargo build --release --locked \
 && rm -r src

COPY LICENSE ./
COPY assets assets
COPY migrations migrations
COPY src src
# The times of the sources are older than those of the empty program, by which cargo would take them for built.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked

ARG APP_VERSION=0.1.0
# A label must not lie. The data directory is made here because the next image has no shell.
RUN test "$(target/release/engramia --version)" = "engramia $APP_VERSION" \
 || { echo "APP_VERSION=$APP_VERSION is not the version in Cargo.toml" >&2; exit 1; } \
 && mkdir /data

# C library, C++ runtime, certificates, time zones; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12
COPY --from=builder --chown=1001:1001 /data /data
COPY --from=builder /build/LICENSE /usr/share/doc/engramia/LICENSE
COPY --from=builder /build/target/release/engramia /usr/local/bin/engramia

ARG APP_VERSION=0.1.0
ARG GIT_COMMIT=unknown
ARG BUILD_TIME=unknown
LABEL org.opencontainers.image.title="Engramia" \
      org.opencontainers.image.description="Memory for AI agents" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/engramia/engramia" \
      org.opencontainers.image.version="$APP_VERSION" \
      org.opencontainers.image.revision="$GIT_COMMIT" \
      org.opencontainers.image.created="$BUILD_TIME"
ENV ENGRAMIA_HOST=0.0.0.0 \
    ENGRAMIA_PORT=8000 \
    ENGRAMIA_DATA_PATH=/data/engramia_data \
    GIT_COMMIT=$GIT_COMMIT \
    BUILD_TIME=$BUILD_TIME

USER 1001:1001
VOLUME /data
WORKDIR /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/usr/local/bin/engramia", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/engramia"]
CMD ["serve"]
