# `./dev demo`: the sample pipeline against the bed, with a check of every place that names the image. Sourced by dev.
# shellcheck shell=bash

# A minimal environment: no CODEBUILD_* variables of a build that this may run in, no credentials, no user settings.
clean_env() { env -i PATH="$PATH" HOME="$WORK/home" LANG=C.UTF-8 "$@"; }

ecs() { # OPERATION JSON: moto reads the service from the credential scope and does not check the signature
  local answer url=${ECS_API:-$MOTO}
  answer=$(curl -sS --fail-with-body -H "X-Amz-Target: AmazonEC2ContainerServiceV20141113.$1" -H 'Content-Type: application/x-amz-json-1.1' \
    -H 'Authorization: AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/ecs/aws4_request, SignedHeaders=host, Signature=x' \
    -d "$2" "$url/") || die 1 "$url refused ecs $1: ${answer:-no response}"
  printf '%s\n' "$answer"
}

# moto's deployments never progress, so the tests' stand-in for ECS (tests/ecs_api) is put in front of it.
start_ecs_api() { # PROGRAM SECONDS CLUSTER/SERVICE: sets ECS_API and ECS_API_PID
  local i program=$1
  shift
  : >"$WORK/ecs-api"
  RUNNER_TEST_AWS=$MOTO "$program" "$@" >"$WORK/ecs-api" 2>"$WORK/ecs-api.log" &
  ECS_API_PID=$!
  for ((i = 0; i < 100; i++)); do
    ECS_API=$(cat "$WORK/ecs-api")
    [ -z "$ECS_API" ] || return 0
    sleep 0.1
  done
  die_with_log "$WORK/ecs-api.log" "the stand-in for ECS does not start."
}
stop_ecs_api() {
  if [ -n "${ECS_API_PID:-}" ]; then
    kill "$ECS_API_PID" 2>/dev/null || true
    wait "$ECS_API_PID" 2>/dev/null || true
  fi
}

moto() { # SERVICE ARGUMENTS... of curl; errors such as "exists already" are ignored
  curl -sS -o "$WORK/moto.log" -H "Authorization: AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/$1/aws4_request, SignedHeaders=host, Signature=x" \
    "${@:2}" "$MOTO/"
}

prepare_service() { # what a team has before its first pipeline: a cluster, a role, a log group, a service with a placeholder
  local service='{"cluster":"demo","services":["webapp"]}' trust
  trust='{"Statement":[{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}'
  moto iam -d Action=CreateRole -d Version=2010-05-08 -d RoleName=webapp-execution --data-urlencode "AssumeRolePolicyDocument=$trust"
  moto logs -H 'X-Amz-Target: Logs_20140328.CreateLogGroup' -H 'Content-Type: application/x-amz-json-1.1' -d '{"logGroupName":"/ecs/webapp"}'
  ecs CreateCluster '{"clusterName":"demo"}' >/dev/null
  if [ "$(ecs DescribeServices "$service" | jq -r '.services[0].status // "none"')" = ACTIVE ]; then return; fi
  ecs RegisterTaskDefinition "$(cat "$WORK/webapp/taskdef.json")" >/dev/null
  ecs CreateService '{"cluster":"demo","serviceName":"webapp","taskDefinition":"webapp","desiredCount":1,"launchType":"FARGATE"}' >/dev/null
}

copy_sample() { # a new repository with one commit, which is the image's tag
  cp -R "$ROOT/fixtures/webapp" "$WORK/webapp"
  mkdir -p "$WORK/home"
  cd "$WORK/webapp"
  clean_env git init -q .
  clean_env git add -A
  clean_env git -c user.name=demo -c user.email=demo@example.com commit -q -m 'A sample service'
}

served_digest() { # TAG: prints the digest that the registry has for it
  curl -fsS -I --cacert "$CA" -u "$LOGIN" -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
    -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "https://$HOST/v2/webapp/manifests/$1" |
    tr -d '\r' | sed -n 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: //p'
}

compare_digests() { # COMMIT: all places that name the image must have the same digest; sets REFERENCE
  local served defined revision registered
  served=$(served_digest "$1") || die 1 "the registry has no image webapp:$1."
  defined=$(jq -r '.[] | select(.name == "web") | .imageUri' imagedefinitions.json)
  revision=$(ecs DescribeServices '{"cluster":"demo","services":["webapp"]}' | jq -r '.services[0].taskDefinition')
  registered=$(ecs DescribeTaskDefinition "{\"taskDefinition\":\"$revision\"}" |
    jq -r '.taskDefinition.containerDefinitions[] | select(.name == "web") | .image')
  say "registry, webapp:${1:0:12}   $served"
  say "imagedefinitions.json   $(jq -c . imagedefinitions.json)"
  say "service webapp runs     $revision"
  say "its container web       $registered"
  REFERENCE=$HOST/webapp@$served
  [ "$defined" = "$REFERENCE" ] || die 1 "imagedefinitions.json names another image than the registry serves."
  [ "$registered" = "$REFERENCE" ] || die 1 "the task definition names another image than the registry serves."
  say "All three name the same image."
}

pull_and_run() { # REFERENCE: from the registry, rather than the image that the build left in the engine
  local docker=(docker --config "$WORK/docker") port version i
  printf '%s' "${LOGIN#*:}" | "${docker[@]}" login -u "${LOGIN%%:*}" --password-stdin "$HOST" >"$WORK/login.log" 2>&1 ||
    die_with_log "$WORK/login.log" "docker could not log in to the registry."
  forget_images
  "${docker[@]}" pull -q "$1"
  CONTAINER=$(docker run -d -p 127.0.0.1::8080 "$1")
  port=$(docker port "$CONTAINER" 8080/tcp | head -n 1)
  for ((i = 0; i < 50; i++)); do
    if version=$(curl -fsS --max-time 2 "http://$port/cgi-bin/version" 2>/dev/null); then
      say "The container responds: version $version"
      return
    fi
    sleep 0.2
  done
  docker logs "$CONTAINER" >&2 || true
  die 1 "the container does not respond on its port 8080."
}

forget_images() { # the sample's tags and digests of both runs
  docker image ls --digests --format '{{.Repository}} {{.Tag}} {{.Digest}}' 2>/dev/null |
    awk -v name="$HOST/webapp" -v other=local.invalid/webapp \
      '$1 == name || $1 == other { print $1 ($2 != "<none>" ? ":" $2 : "@" $3) }' |
    xargs -r docker image rm >/dev/null 2>&1 || true
}

leave_demo() {
  cd "$ROOT"
  stop_ecs_api
  if [ -n "${CONTAINER:-}" ]; then docker rm -f "$CONTAINER" >/dev/null 2>&1 || true; fi
  forget_images
  rm -rf "$WORK"
}

build_demo_programs() { # sets RUNNER and ECS_API_PROGRAM
  local programs
  if [ -n "${RUNNER_BIN:-}" ]; then
    RUNNER=$(realpath "$RUNNER_BIN")
    ECS_API_PROGRAM=$(built -p ecs-api)
    say "$("$RUNNER" --version), $(du -h "$RUNNER" | cut -f1)"
  else
    # In the dev profile and in one call: `./dev test` then compiles nothing but the tests.
    programs=$(built -p codebuild-runner --bin runner -p ecs-api --bin ecs-api)
    RUNNER=$(grep '/runner$' <<<"$programs")
    ECS_API_PROGRAM=$(grep '/ecs-api$' <<<"$programs")
    say "$("$RUNNER" --version), a debug build"
  fi
}

cmd_demo() {
  local commit
  say "1. The test bed"
  start_bed
  say "" && say "2. The binary"
  build_demo_programs
  WORK=$(mktemp -d)
  trap leave_demo EXIT
  copy_sample
  commit=$(git rev-parse HEAD)
  say "" && say "3. runner run --local: the whole pipeline, and nothing leaves this machine"
  clean_env "$RUNNER" run --local
  say "" && say "4. runner run --publish: the same pipeline against the registry and the AWS API"
  prepare_service
  start_ecs_api "$ECS_API_PROGRAM" 3 demo/webapp
  clean_env "${BED_ENV[@]}" AWS_ENDPOINT_URL="$ECS_API" "$RUNNER" run --publish
  say "" && say "5. The image in the registry, in imagedefinitions.json and in the service"
  compare_digests "$commit"
  say "" && say "6. docker pull and run of exactly that image"
  pull_and_run "$REFERENCE"
}

