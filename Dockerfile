# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# For `usher --version`, since git stays outside: --build-arg USHER_BUILD="$(git log -1 --format='%h %cs')"
ARG USHER_BUILD=
# What usher depends on is kept for the next build. usher itself is compiled anew: cargo goes by the times of files, and a
# checkout may be older than what the build of another one left. Builds at the same time take turns.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    # jemalloc is made for the size of pages that it finds; there are kernels with larger ones, on this architecture only.
    if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi \
    && cargo clean --locked --release --package usher \
    && cargo build --locked --release --package usher --features jemalloc \
    && cp target/release/usher /usr/local/bin/usher

FROM debian:bookworm-slim
# The root certificates for Clerk and the mail server, and curl for the health check.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/usher --create-home --skel /dev/null --shell /usr/sbin/nologin usher
COPY --from=build /usr/local/bin/usher /usr/local/bin/usher
USER 10001
WORKDIR /var/lib/usher
# Inside a container the outside is what is published: publish 8080, and 9090 to your own network only. Settings that did not
# arrive must not make it a development server.
ENV USHER_ENV=production USHER_LISTEN=0.0.0.0:8080 USHER_ADMIN_LISTEN=0.0.0.0:9090 LOG_FORMAT=json
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--show-error", "--max-time", "4", "http://127.0.0.1:9090/readyz"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["usher"]
CMD ["serve"]
