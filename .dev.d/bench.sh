# `./dev bench`: the release binary side by side with its peers. Sourced by dev.
# shellcheck shell=bash

# A pipeline file with this many lines, such as a team with too many services would have.
# shellcheck disable=SC2016 # runner resolves `${…}`
large_pipeline() { # LINES
  printf 'version: 1\nname: large\nenv: { shell: sh, variables: { STAGE: prod } }\nimages:\n'
  local i lines=$1
  for ((i = 0; i < 400; i++)); do
    printf '  image%s:\n    repository: team/image%s\n    context: services/%s\n    args: { STAGE: "${STAGE}" }\n    tags: ["${source.commit}", latest]\n' "$i" "$i" "$i"
  done
  printf 'phases:\n  build:\n    steps:\n'
  for ((i = 0; i < (lines - 2007) / 6; i++)); do
    printf '      - name: Step %s\n        run: |\n          echo step %s\n          ./build.sh\n        env: { TARGET: "${STAGE}-%s" }\n      - build: image%s\n' "$i" "$i" "$i" $((i % 400))
  done
}

cmd_bench() { # [PART]...
  local programs
  cmd_build
  programs=$(built --release -p codebuild-runner --bin runner -p ecs-api --bin ecs-api)
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
  large_pipeline 5000 >"$WORK/start.yml"
  start_bed
  in_bed RUNNER_TEST_ECS_API="$(grep '/ecs-api$' <<<"$programs")" \
    python3 "$ROOT/tests/bench.py" "$(realpath "$TARGET/release/runner")" "$WORK" "$@"
}
