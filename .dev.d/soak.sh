# `./dev soak`: the long test suites at full size, and fuzzing. Sourced by dev.
# shellcheck shell=bash

# The instrumentation for libFuzzer, from flags that need no nightly toolchain.
FUZZ_FLAGS='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing'

cmd_soak() { # [--engine NUMBER [--store STORE]] [SECONDS] [PART]...
  local seconds=600 part
  read_engine_options "$@"
  set -- "${REST[@]}"
  case ${1:-} in [0-9]*)
    seconds=$1
    shift
    ;;
  esac
  [ $# -gt 0 ] || set -- torture context faults deployments attacks masker language
  for part in "$@"; do
    case $part in
      torture) soak_tests torture "processes that try to outlive their step, and runs that are killed" ;;
      context) soak_tests context::generated "3,000 build contexts, compared with docker build" ;;
      deployments) soak_tests deployments_with_failing_calls:: "every deployment scenario with every fault at every call" ;;
      faults) soak_tests faults:: "pushes to a registry that fails in every way at every point" ;;
      attacks) soak_tests attacks:: "secrets in every form of every encoder, by every way that output takes" ;;
      engines) soak_engines ;;
      masker | language) soak_fuzz "$part" "$seconds" ;;
      *) die 2 "unknown suite $part; the suites are torture, context, faults, deployments, attacks, engines, masker and language." ;;
    esac
  done
}

soak_tests() { # FILTER TITLE
  start_bed
  say "soak: $2"
  cd "$ROOT"
  # A release build would only be faster.
  in_bed RUNNER_SOAK=full RUST_TEST_THREADS=1 \
    cargo test --test blackbox -- --nocapture "$1"
}

# All engines, or only ENGINE: then the page has the earlier results of the others.
soak_engines() {
  local entry number store results=$STATE/engine-results only=$ENGINE directories=() failed=''
  for entry in 20:overlay2 26:overlay2 28:overlay2 28:containerd; do
    number=${entry%:*} store=${entry#*:}
    select_engine "$number" "$store"
    if [ -z "$only" ] || [ "$only" = "$ENGINE" ]; then
      say "soak: the tests that touch Docker, on Docker Engine $number with the store $store"
      rm -rf "${results:?}/$ENGINE"
      mkdir -p "$results/$ENGINE"
      soak_engine "$number" "$store" "$results/$ENGINE" || failed=yes
    fi
    if [ -s "$results/$ENGINE/junit.xml" ]; then directories+=("$results/$ENGINE"); fi
  done
  say "soak: the sample in a root like CodeBuild's"
  if "$ROOT/dev" codebuild >"$results/codebuild.log" 2>&1; then
    echo passed >"$results/codebuild"
  else
    echo failed >"$results/codebuild"
    failed=yes
  fi
  "$ROOT/.dev.d/engine-matrix" "$results/codebuild" "${directories[@]}" >"$results/engines.md"
  cp "$results/engines.md" "$ROOT/docs/engines.md"
  say "generated: docs/engines.md"
  [ -z "$failed" ] || die 1 "tests failed; docs/engines.md names them, and the logs are in .dev/engine-results."
}

# Takes the engine down, unless it was up before. Fails if a test fails.
soak_engine() { # NUMBER STORE DIRECTORY
  local was_up='' status=0 ends junit=$TARGET/nextest/engines/junit.xml
  ! engine_is_up || was_up=yes
  start_bed
  cd "$ROOT"
  engine_facts >"$3/engine"
  in_bed .dev.d/engine-probes "$3/probes.log" >"$3/probes"
  rm -f "$junit"
  ends=$(engine_ends)
  run_tests --profile engines >"$3/tests.log" 2>&1 || status=$?
  [ -s "$junit" ] || die_with_log "$3/tests.log" "the tests did not run on the engine $ENGINE."
  cp "$junit" "$3/junit.xml"
  printf 'Times that a test ended it\t%s\n' $(($(engine_ends) - ends)) >>"$3/engine"
  grep -E '^ +Summary' "$3/tests.log" || true
  [ -n "$was_up" ] || down_engines "$1" "$2"
  return "$status"
}

soak_fuzz() { # TARGET SECONDS
  # libFuzzer is C++.
  have c++ || have g++ || die 3 "fuzzing needs a C++ compiler: apt-get install g++"
  cd "$ROOT/tests/fuzz"
  local fuzzers
  fuzzers=$(RUSTFLAGS=${FUZZ_FLAGS//$'\n'/ } cargo build --release --locked --message-format=json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1 | xargs dirname)
  local target=$1 seconds=$2 file options=(-max_len=2000)
  mkdir -p artifacts "corpus/$target"
  if [ "$target" = language ]; then
    for file in "$ROOT"/fixtures/webapp/pipeline.yml "$ROOT"/fixtures/pipelines/*/*.yml; do
      cp "$file" "corpus/language/$(basename "$(dirname "$file")")-$(basename "$file")"
    done
    # With the keys of the language as a dictionary, the fuzzer gets past the first lines.
    jq -r '[.. | objects | .properties? // {} | keys[]] | unique[] | "\"\(.)\""' "$ROOT/docs/pipeline.schema.json" >artifacts/dictionary
    options=(-max_len=20000 -dict=artifacts/dictionary)
  fi
  say "soak: fuzzing the $target for $seconds s"
  "$fuzzers/$target" "corpus/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 -print_final_stats=1 \
    -artifact_prefix="artifacts/$target-" "${options[@]}" >"artifacts/$target.log" 2>&1 ||
    die_with_log "artifacts/$target.log" "the fuzzer found something; the input is in tests/fuzz/artifacts."
  grep -E '^(stat::|Done )' "artifacts/$target.log"
}
