# `./dev codebuild`: the sample pipeline in a root like that of a CodeBuild build: mounts, processes and a network of its
# own, CODEBUILD_* variables, Docker installed and no engine running. Sourced by dev.
# shellcheck shell=bash

codebuild_env() { # NUMBER COMMIT: prints the variables of a build
  local id=webapp:00000000-0000-0000-0000-00000000000$1
  printf '%s\n' \
    CODEBUILD_CI=true \
    "CODEBUILD_BUILD_ID=$id" \
    "CODEBUILD_BUILD_ARN=arn:aws:codebuild:us-east-1:123456789012:build/$id" \
    "CODEBUILD_BUILD_NUMBER=$1" \
    CODEBUILD_INITIATOR=demo \
    CODEBUILD_SRC_DIR=/codebuild/src \
    CODEBUILD_SOURCE_REPO_URL=https://github.com/example/webapp.git \
    "CODEBUILD_RESOLVED_SOURCE_VERSION=$2" \
    CODEBUILD_BUILD_SUCCEEDING=1
}

codebuild_build() { # NUMBER COMMIT COMMAND...
  local variables
  mapfile -t variables < <(codebuild_env "$1" "$2")
  shift 2
  env -i PATH="$PATH" LANG=C.UTF-8 "${BED_ENV[@]}" "${variables[@]}" \
    setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child "$ROOT/.dev.d/enter-root" "$(engine_root)" \
    --tmpfs /var/lib --tmpfs /var/log --bind "$WORK/webapp" /codebuild/src --bind "$WORK/tools" /codebuild/tools \
    --bind "$ENGINES/relays" /relays --relay 443 /relays/registry --relay 5555 /codebuild/tools/aws -- \
    /codebuild/tools/codebuild-build /codebuild/tools/base.tar "$@"
}

leave_codebuild() {
  if [ -n "${AWS_RELAY_PID:-}" ]; then kill "$AWS_RELAY_PID" 2>/dev/null || true; fi
  stop_ecs_api
  cd "$ROOT"
  rm -rf "$WORK"
}

cmd_codebuild() { # [--engine NUMBER]
  local commit
  read_engine_options "$@"
  [ ${#REST[@]} = 0 ] || die 2 "\`./dev codebuild\` does not know ${REST[0]}."
  [ -n "$NUMBER" ] || select_engine 28 overlay2
  say "1. The test bed, and the root"
  ENGINE='' start_bed
  mkdir -p "$ENGINES"
  lock "$ENGINES/lock"
  prepare_root
  exec 9>&-
  say "" && say "2. The binary"
  build_demo_programs
  WORK=$(mktemp -d)
  trap leave_codebuild EXIT
  copy_sample
  commit=$(git rev-parse HEAD)
  mkdir "$WORK/tools"
  cp "$RUNNER" "$ROOT/.dev.d/codebuild-build" "$WORK/tools"
  docker save "$BASE_IMAGE" >"$WORK/tools/base.tar"
  prepare_service
  start_ecs_api "$ECS_API_PROGRAM" 3 demo/webapp
  # The stand-in has an address of its own; in the root it takes moto's.
  setpriv --pdeathsig KILL socat -t 600 "UNIX-LISTEN:$WORK/tools/aws,fork" "TCP:${ECS_API#http://}" &
  AWS_RELAY_PID=$!
  say "" && say "3. runner run --local, in a build without an engine"
  codebuild_build 1 "$commit" /codebuild/tools/runner run --local
  say "" && say "4. runner run, which publishes in CodeBuild, in another build without an engine"
  codebuild_build 2 "$commit" /codebuild/tools/runner run
  say "" && say "5. The image in the registry, in imagedefinitions.json and in the service"
  compare_digests "$commit"
}
