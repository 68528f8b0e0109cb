//! Pushes to registries that answer in unusual ways: a push is complete, or fails with its cause, and neither a login
//! nor a layer leaks.

use crate::harness::{Outcome, Project, docker};
use crate::scripted_registry::{Asked, ScriptedRegistry, said};
use indoc::indoc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A small image, so that a push takes no time.
static IMAGE: LazyLock<String> = LazyLock::new(|| {
    let name = "local.invalid/registries:v1".to_owned();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("small"), "small").unwrap();
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\nCOPY small /\n").unwrap();
    docker(&["build", "-q", "-t", &name, directory.path().to_str().unwrap()]);
    name
});

fn project(registry: &ScriptedRegistry) -> Project {
    Project::new(indoc! {r"
        version: 1
        name: t
    "})
    .file(".home/.docker/config.json", registry.docker_config())
}

/// Pushes an image. Calls are retried for a second.
fn push(registry: &ScriptedRegistry) -> Outcome {
    push_with_patience(registry, "1s")
}

fn push_with_patience(registry: &ScriptedRegistry, patience: &str) -> Outcome {
    let call = format!("image push {} {}/team/app:v1", *IMAGE, registry.host);
    project(registry).runner(&call).env("RUNNER_REGISTRY_PATIENCE", patience).run()
}

#[track_caller]
fn is_complete(registry: &ScriptedRegistry, outcome: Outcome, case: &str) -> Outcome {
    assert_eq!(outcome.code, Some(0), "{case}: {outcome}");
    assert!(registry.is_complete("v1"), "{case}: {outcome}");
    outcome
}

/// A registry that requires the token `T` of this answer of its token service.
fn with_token(challenges: &'static [&'static str], token: &'static str) -> ScriptedRegistry {
    ScriptedRegistry::start(move |asked| match asked.path.as_str() {
        "/token" => Some(said(200).body(token)),
        _ if asked.login == "Bearer T" => None,
        _ => Some(
            challenges.iter().fold(said(401), |said, challenge| said.header("WWW-Authenticate", *challenge)),
        ),
    })
}

const BEARER: &str = "Bearer realm=\"http://HOST/token\",service=\"s\"";

/// Findings, B8.
#[test]
fn a_busy_registry_is_waited_for_and_the_wait_is_reported() {
    let registry = ScriptedRegistry::start(|asked| {
        // The probe for TLS sends a request of its own.
        (asked.path == "/v2/" && asked.before < 5).then(|| said(429).header("Retry-After", "1"))
    });
    let outcome = push_with_patience(&registry, "1m");
    let wait = format!("waiting 1 s for {}, because it answered 429 Too Many Requests\n", registry.host);
    let outcome = is_complete(&registry, outcome, "429");
    assert_eq!(outcome.stderr.matches(&wait).count(), 5, "{outcome}");
    let registry =
        ScriptedRegistry::start(|asked| (asked.path == "/v2/" && asked.before < 4).then(|| said(500)));
    let outcome = is_complete(&registry, push_with_patience(&registry, "1m"), "500");
    assert!(outcome.stderr.contains("because it answered 500 Internal Server Error"), "{outcome}");
}

#[test]
fn a_busy_token_service_and_a_busy_upload_are_waited_for() {
    let registry = ScriptedRegistry::start(|asked| match asked.path.as_str() {
        "/token" if asked.before == 0 => Some(said(503).header("Retry-After", "1")),
        "/token" => Some(said(200).body(r#"{"token":"T"}"#)),
        _ if asked.login != "Bearer T" => Some(said(401).header("WWW-Authenticate", BEARER)),
        _ => (asked.is("POST", "/blobs/uploads/") && asked.before < 2).then(|| {
            said(425).header("Retry-After", "1").body("{\"errors\":[{\"code\":\"TOOMANYREQUESTS\"}]}")
        }),
    });
    let outcome = is_complete(&registry, push_with_patience(&registry, "1m"), "425");
    assert!(outcome.stderr.contains("because it answered 503 Service Unavailable"), "{outcome}");
    assert!(outcome.stderr.contains("because it answered 425 TOOMANYREQUESTS"), "{outcome}");
}

#[test]
fn a_registry_that_stays_busy_fails_the_push_after_the_patience() {
    for status in [408, 429, 521] {
        let registry = ScriptedRegistry::start(move |asked| (asked.path == "/v2/").then(|| said(status)));
        let started = Instant::now();
        push(&registry).exits(3).complains(&format!("refused to serve: {status}"));
        assert!(started.elapsed() < Duration::from_secs(30), "{status}");
        assert!((3..8).contains(&registry.count("GET", "/v2/")), "{:?}", registry.requests());
    }
}

#[test]
fn a_step_notes_in_the_log_that_it_waits() {
    let registry = ScriptedRegistry::start(|asked| {
        (asked.is("POST", "/blobs/uploads/") && asked.before < 1)
            .then(|| said(503).header("Retry-After", "1"))
    });
    let pipeline = format!(
        indoc! {r#"
            version: 1
            name: t
            images: {{ app: {{ repository: {}/team/app, tags: ["${{TAG:-v1}}"] }} }}
            phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}
        "#},
        registry.host
    );
    let project = Project::new(&pipeline).file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let outcome = project.runner("run --publish").run();
    let outcome = is_complete(&registry, outcome, "503");
    outcome.says(&format!("waiting 1 s for {}, because it answered 503 Service Unavailable", registry.host));
}

/// Findings, B2.
#[test]
fn calls_that_only_save_work_do_not_fail_a_push() {
    type Is = fn(&Asked) -> bool;
    let kinds: [(&str, Is); 4] = [
        ("tags", |asked| asked.path.ends_with("/tags/list")),
        ("blobs", |asked| asked.is("HEAD", "/blobs/")),
        ("both", |asked| asked.path.ends_with("/tags/list") || asked.is("HEAD", "/")),
        ("earlier", |asked| asked.is("GET", "/manifests/old")),
    ];
    for (kind, is) in kinds {
        for status in [403, 405, 500] {
            let registry = ScriptedRegistry::start(move |asked| {
                let has_earlier = kind == "earlier" && asked.path.ends_with("/tags/list");
                is(asked).then(|| said(status)).or(has_earlier.then(|| said(200).body(r#"{"tags":["old"]}"#)))
            });
            is_complete(&registry, push(&registry), &format!("{kind} {status}"));
        }
    }
}

#[test]
fn calls_that_only_save_work_do_not_delay_a_push() {
    let registry = ScriptedRegistry::start(|asked| {
        let is_silent = asked.path.ends_with("/tags/list") || asked.is("HEAD", "/blobs/");
        is_silent.then(|| said(500).after(Duration::from_secs(30)))
    });
    let started = Instant::now();
    let outcome = is_complete(&registry, push(&registry), "silent");
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    assert!(outcome.stderr.contains("continued without the layers of earlier images"), "{outcome}");
    assert!(outcome.stderr.contains("did not serve it within 1 s"), "{outcome}");
}

/// Findings, B3.
#[test]
fn a_manifest_is_verified_with_get_if_head_does_not_show_it() {
    for status in [400, 404, 405, 500] {
        let registry =
            ScriptedRegistry::start(move |asked| asked.is("HEAD", "/manifests/").then(|| said(status)));
        is_complete(&registry, push(&registry), &status.to_string());
        assert_eq!(registry.count("GET", "/manifests/v1"), 1);
    }
    // A header that is no digest of this kind.
    for digest in ["", "sha512:00"] {
        let registry = ScriptedRegistry::start(move |asked| {
            asked.is("HEAD", "/manifests/").then(|| said(200).header("Docker-Content-Digest", digest))
        });
        is_complete(&registry, push(&registry), digest);
    }
    // GET decides.
    let registry = ScriptedRegistry::start(|asked| {
        (asked.is("HEAD", "/manifests/") || asked.is("GET", "/manifests/")).then(|| said(404))
    });
    push(&registry).exits(1).complains("serves nothing for `v1` instead of sha256:");
    let registry = ScriptedRegistry::start(|asked| {
        let reason = r#"{"errors":[{"code":"DENIED","message":"you may not pull"}]}"#;
        (asked.is("HEAD", "/manifests/") || asked.is("GET", "/manifests/")).then(|| said(403).body(reason))
    });
    push(&registry).exits(3).complains("DENIED you may not pull");
}

/// Findings, B4.
#[test]
fn a_location_is_relative_to_its_request() {
    for location in
        ["uuid", "./uuid?state=1", "/v2/team/app/blobs/uploads/uuid", "?state=1", "../uploads/uuid"]
    {
        let registry = ScriptedRegistry::start(move |asked| {
            (asked.method == "POST").then(|| said(202).header("Location", location))
        });
        is_complete(&registry, push(&registry), location);
        let requests = registry.requests();
        let sent = requests.iter().filter(|asked| asked.method == "PUT" && asked.path.contains("blobs"));
        let name = if location.starts_with('?') { "" } else { "uuid" };
        for asked in sent {
            assert_eq!(asked.path, format!("/v2/team/app/blobs/uploads/{name}"), "{location}");
            assert_eq!(asked.query.contains("state=1"), location.contains("state=1"), "{location}");
        }
    }
}

/// Findings, B5.
#[test]
fn every_challenge_and_every_form_of_a_token_is_understood() {
    let token = r#"{"token":"T"}"#;
    let challenges: [&'static [&'static str]; 5] = [
        &["Negotiate", BEARER],
        &["Basic realm=\"r\"", BEARER],
        &["Negotiate, Bearer realm=\"http://HOST/token\""],
        &["bearer REALM=\"http://HOST/token\", Service=\"\""],
        &["Bearer service=\"a,b\\\"c\",realm=http://HOST/token"],
    ];
    for challenges in challenges {
        let registry = with_token(challenges, token);
        is_complete(&registry, push(&registry), &challenges.join(" + "));
        // The password goes to the token service only.
        let leaks = registry.requests().into_iter().filter(|asked| asked.login.starts_with("Basic"));
        assert!(leaks.into_iter().all(|asked| asked.path == "/token"), "{challenges:?}");
    }
    for token in [
        r#"{"token":"","access_token":"T"}"#,
        r#"{"token":null,"access_token":"T","expires_in":null}"#,
        r#"{"token":"T","access_token":"","expires_in":"300","issued_at":"never"}"#,
    ] {
        let registry = with_token(&[BEARER], token);
        is_complete(&registry, push(&registry), token);
    }
    let registry = with_token(&["Negotiate", "NTLM"], token);
    push(&registry)
        .exits(3)
        .complains("it only accepts logins that runner does not support: negotiate, ntlm");
}

/// Findings, B6.
#[test]
fn a_number_of_a_registry_is_clamped() {
    for token in [
        r#"{"token":"T","expires_in":9223372036854775807}"#,
        r#"{"token":"T","expires_in":18446744073709551616}"#,
        r#"{"token":"T","expires_in":-1}"#,
    ] {
        let registry = with_token(&[BEARER], token);
        is_complete(&registry, push(&registry), token);
    }
    let registry = ScriptedRegistry::start(|asked| {
        let size = "18446744073709551615";
        (asked.path.ends_with("/tags/list") && asked.before < 1)
            .then(|| said(429).header("Retry-After", size))
    });
    is_complete(&registry, push(&registry), "Retry-After");
}

/// Findings, B9.
#[test]
fn neither_a_login_nor_a_layer_goes_to_another_machine_in_clear() {
    let registry = with_token(&["Bearer realm=\"http://registry.invalid/token\""], "");
    push(&registry).exits(3).complains("asks for the login over plain HTTP at registry.invalid");
    for location in
        ["http://registry.invalid/upload", "http://192.0.2.1:5000/upload", "//registry.invalid/upload"]
    {
        let registry = ScriptedRegistry::start(move |asked| {
            (asked.method == "POST").then(|| said(202).header("Location", location))
        });
        push(&registry).exits(3).complains("asks for the layers over plain HTTP at ");
        assert!(!registry.is_complete("v1"));
    }
    // On this machine there is nothing to read along the way.
    let storage = ScriptedRegistry::start(|_| None);
    let address = format!("http://{}/v2/other/blobs/uploads/1", storage.host);
    let registry = ScriptedRegistry::start(move |asked| match asked.method.as_str() {
        "POST" => Some(said(202).header("Location", address.clone())),
        "HEAD" if asked.path.contains("/blobs/") && asked.before > 0 => Some(said(200)),
        _ => None,
    });
    push(&registry).exits(0);
    let requests = storage.requests();
    assert!(requests.iter().any(|asked| asked.method == "PUT"), "{requests:?}");
    assert!(requests.iter().all(|asked| asked.login.is_empty()), "{requests:?}");
}

#[test]
fn an_identity_token_does_not_follow_a_redirect() {
    let other = ScriptedRegistry::start(|_| Some(said(200).body(r#"{"access_token":"T"}"#)));
    let elsewhere = format!("http://{}/token", other.host);
    let registry = ScriptedRegistry::start(move |asked| match asked.path.as_str() {
        "/token" => Some(said(307).header("Location", elsewhere.clone())),
        _ => (asked.login != "Bearer T").then(|| said(401).header("WWW-Authenticate", BEARER)),
    });
    let config = r#"{"auths": {"HOST": {"identitytoken": "my-identity"}}}"#.replace("HOST", &registry.host);
    let project = project(&registry).file(".home/.docker/config.json", config);
    let call = format!("image push {} {}/team/app:v1", *IMAGE, registry.host);
    let outcome = project.runner(&call).run().exits(3).says_not("my-identity");
    outcome.complains("refused to give a token: 307 Temporary Redirect");
    assert!(other.requests().is_empty());
}

/// Findings, B7.
#[test]
fn a_tag_that_cannot_be_moved_is_one_case_whatever_the_status() {
    let errors =
        |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"the tag is immutable"}}]}}"#);
    for (status, code) in [
        (400, "TAG_INVALID"),
        (403, "DENIED"),
        (405, "UNSUPPORTED"),
        (409, "CONFLICT"),
        (412, "PRECONDITION"),
    ] {
        let refuses = |asked: &Asked| asked.is("PUT", "/manifests/");
        // It refers to this very image: the registry has stored it before.
        let body = errors(code);
        let registry = ScriptedRegistry::start(move |asked| {
            refuses(asked).then(|| said(status).body(body.clone()).carried_out())
        });
        is_complete(&registry, push(&registry), code);
        // It refers to another image.
        let body = errors(code);
        let registry = ScriptedRegistry::start(move |asked| {
            let other = format!("sha256:{}", "0".repeat(64));
            let existing = || said(200).header("Docker-Content-Digest", other);
            refuses(asked)
                .then(|| said(status).body(body.clone()))
                .or_else(|| asked.is("HEAD", "/manifests/").then(existing))
        });
        push(&registry).exits(1).complains("the tag `v1` is immutable and refers to sha256:0000");
    }
    // A refusal for another reason stays one, and a missing tag as well.
    let registry = ScriptedRegistry::start(|asked| {
        asked.is("PUT", "/manifests/").then(|| said(403).body(r#"{"errors":[{"code":"DENIED"}]}"#))
    });
    push(&registry).exits(3).complains("refuses access: DENIED");
}

/// Findings, B10.
#[test]
fn a_blob_that_a_registry_loses_is_sent_again_and_no_tag_refers_to_it() {
    let registry = ScriptedRegistry::start(|asked| (asked.is("PUT", "/blobs/uploads/1")).then(|| said(201)));
    is_complete(&registry, push(&registry), "lost once");
    let registry = ScriptedRegistry::start(|asked| asked.is("PUT", "/blobs/").then(|| said(201)));
    push(&registry).exits(3).complains("accepted the blob sha256:").complains(", but does not have it");
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
    // It has less than what was sent.
    let registry = ScriptedRegistry::start(|asked| {
        (asked.is("HEAD", "/blobs/") && asked.before > 0).then(|| said(200).body("x"))
    });
    push(&registry).exits(3).complains(", but does not have it");
    // Only GET shows that it is there.
    let registry = ScriptedRegistry::start(|asked| asked.is("HEAD", "/blobs/").then(|| said(404)));
    is_complete(&registry, push(&registry), "no HEAD");
}

/// Findings, B12.
#[test]
fn errors_show_everything_that_the_registry_says() {
    let errors = r#"{"errors":[{"code":"DENIED","message":"no","detail":"policy p"},{"code":"UNAUTHORIZED","message":"also no","detail":{"scope":"push"}}]}"#;
    let registry =
        ScriptedRegistry::start(move |asked| (asked.method == "POST").then(|| said(403).body(errors)));
    push(&registry)
        .exits(3)
        .complains("refuses access: DENIED no (policy p); UNAUTHORIZED also no ({\"scope\":\"push\"})\n");
    let registry = ScriptedRegistry::start(|asked| (asked.method == "POST").then(|| said(202)));
    let started = "started an upload, but returned no URL for it";
    push(&registry).exits(3).complains(&format!("error: the registry {} {started}\n", registry.host));
    let registry = with_token(&["Bearer realm=\"http://HOST/token\""], "{}");
    push(&registry).exits(3).complains("has a token service that returned no token");
    let registry = ScriptedRegistry::start(|asked| match asked.path.as_str() {
        "/token" => Some(said(403).body(r#"{"details":"incorrect username or password"}"#)),
        _ => Some(said(401).header("WWW-Authenticate", BEARER)),
    });
    push(&registry)
        .exits(3)
        .complains("its token service rejects the login: {\"details\":\"incorrect username");
}

#[test]
fn a_credential_helper_that_is_missing_or_fails_is_named() {
    let registry =
        ScriptedRegistry::start(|_| Some(said(401).header("WWW-Authenticate", "Basic realm=\"r\"")));
    let push = |config: &str| {
        let config = config.replace("HOST", &registry.host);
        let project = project(&registry).file(".home/.docker/config.json", config);
        project.runner(&format!("image push {} {}/team/app:v1", *IMAGE, registry.host)).run().exits(3)
    };
    let missing = format!(
        "it requires a login, and the credential helper docker-credential-runner-none, which Docker's configuration names for {}, is not installed",
        registry.host
    );
    push(r#"{"credHelpers": {"HOST": "runner-none"}}"#).complains(&missing);
    push(r#"{"credsStore": "runner-none"}"#).complains(&missing);
    push(r#"{"credHelpers": null, "auths": {"HOST": null}}"#)
        .complains("it requires a login, and there is none");
    push(r#"{"auths": {"HOST": {"auth": "bm8gY29sb24="}}}"#).complains("is not `user:password` in base64");
    // A registry without a login does not need the helper.
    let open = ScriptedRegistry::start(|_| None);
    let project = project(&open).file(".home/.docker/config.json", r#"{"credsStore": "runner-none"}"#);
    project.runner(&format!("image push {} {}/team/app:v1", *IMAGE, open.host)).run().exits(0);
}

#[test]
fn a_service_that_cannot_be_pulled_without_its_credential_helper_names_it() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        images: { app: { repository: helpers, tags: ["${TAG:-t}"] } }
        phases:
          build:
            steps:
              - build: app
              - test: app
                services: { db: { image: "127.0.0.1:1/none:1" } }
    "#})
    .file(".home/.docker/config.json", r#"{"credsStore": "runner-none"}"#)
    .file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let outcome = project.runner("run").run().exits(3).says("pulling 127.0.0.1:1/none:1");
    outcome.says("docker-credential-runner-none").says("if the registry requires a login");
}

/// Findings, B1.
#[test]
fn the_login_of_the_exact_key_is_used() {
    let registry = ScriptedRegistry::start(|asked| {
        (asked.login != "Basic dXNlcjpwYXNz")
            .then(|| said(401).header("WWW-Authenticate", "Basic realm=\"r\""))
    });
    // A map in random order would find the wrong ones soon.
    for _ in 0..4 {
        let config = r#"{"auths": {"http://HOST": {"auth": "eDp4"}, "https://HOST/v1/": {"auth": "eDp4"}, "HOST": {"auth": "dXNlcjpwYXNz"}, "HOST/v2/": {"auth": "eDp4"}}}"#;
        let project =
            project(&registry).file(".home/.docker/config.json", config.replace("HOST", &registry.host));
        project.runner(&format!("image push {} {}/team/app:v1", *IMAGE, registry.host)).run().exits(0);
    }
}
