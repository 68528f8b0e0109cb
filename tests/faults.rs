//! Pushes through a proxy that breaks, in front of a real registry: every push ends complete, or failed with the cause in its
//! words, and no tag stands for something incomplete.

use crate::harness::{Project, docker, unique};
use crate::servers::PlainRegistry;
use indoc::indoc;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    /// The connection is gone before the request is read.
    Refused,
    /// It is gone in the middle of the request's body, or after its head where there is none.
    Reset,
    TooMany,
    Internal,
    Unavailable,
    /// No answer.
    Hang,
    /// Half an answer.
    Truncated,
    /// The login is not accepted any more.
    Expired,
    /// The same, as ECR says it.
    ExpiredInEcr,
    /// A byte of the body is another one.
    Damaged,
    /// Only the beginning of the body arrives, as with chunks in ECR.
    Beginning,
    /// The answer gets lost, but not what was asked for.
    Unanswered,
}

const FAULTS: [Fault; 12] = [
    Fault::Refused,
    Fault::Reset,
    Fault::TooMany,
    Fault::Internal,
    Fault::Unavailable,
    Fault::Hang,
    Fault::Truncated,
    Fault::Expired,
    Fault::ExpiredInEcr,
    Fault::Damaged,
    Fault::Beginning,
    Fault::Unanswered,
];

/// The points of the protocol, as they are told apart by method and path.
const POINTS: [(&str, &str); 8] = [
    ("GET", "/v2/"),
    ("GET", "/tags/list"),
    ("GET", "/manifests/"),
    ("HEAD", "/blobs/"),
    ("POST", "/blobs/uploads/"),
    ("PUT", "/blobs/uploads/"),
    ("PUT", "/manifests/"),
    ("HEAD", "/manifests/"),
];

/// A proxy in front of a registry that breaks so many requests of one kind, and then none any more.
struct Proxy {
    address: String,
    left: Arc<Mutex<usize>>,
}

#[derive(Clone)]
struct Breaking {
    registry: String,
    fault: Fault,
    point: (&'static str, &'static str),
    left: Arc<Mutex<usize>>,
    /// Where in a body it happens, of 100.
    place: usize,
}

impl Proxy {
    fn start(
        registry: &str,
        fault: Fault,
        point: (&'static str, &'static str),
        times: usize,
        place: usize,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Arc::new(Mutex::new(times));
        let breaking = Breaking { registry: registry.to_owned(), fault, point, left: left.clone(), place };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let breaking = breaking.clone();
                std::thread::spawn(move || {
                    let _ = breaking.serve(&client);
                });
            }
        });
        Self { address, left }
    }

    /// How many times it has not broken yet.
    fn left(&self) -> usize {
        *self.left.lock().unwrap()
    }
}

struct Request {
    head: String,
    length: usize,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            let keeps = !line.to_ascii_lowercase().starts_with("connection:");
            if line == "\r\n" {
                head.push_str("Connection: close\r\n\r\n");
                return Some(Self { head, length });
            }
            if keeps {
                head.push_str(&line);
            }
        }
    }

    fn is(&self, (method, part): (&str, &str)) -> bool {
        let mut words = self.head.split(' ');
        let (own, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        own == method && if part == "/v2/" { path == part } else { path.contains(part) }
    }
}

impl Breaking {
    fn serve(&self, client: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let Some(request) = Request::read(&mut reader) else { return Ok(()) };
        let breaks = request.is(self.point) && {
            let mut left = self.left.lock().unwrap();
            let breaks = *left > 0;
            *left = left.saturating_sub(1);
            breaks
        };
        if !breaks {
            return self.pass_on(&request, &mut reader, client, request.length, None).map(drop);
        }
        let answer = |text: &str| (&mut &*client).write_all(text.as_bytes());
        let at = request.length * self.place / 100;
        match self.fault {
            Fault::Refused => reset(client),
            Fault::Reset => {
                std::io::copy(&mut reader.by_ref().take(at as u64), &mut std::io::sink())?;
                reset(client)
            }
            Fault::TooMany => answer(
                "HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            ),
            Fault::Internal => answer("HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
            Fault::Unavailable => {
                answer("HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            }
            Fault::Hang => {
                std::thread::sleep(Duration::from_secs(4));
                Ok(())
            }
            Fault::Truncated => answer("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"half\":"),
            Fault::Expired => answer(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"t\"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            ),
            Fault::ExpiredInEcr => {
                let body = r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#;
                let body = if request.head.starts_with("HEAD ") { "" } else { body };
                let length = body.len();
                answer(&format!(
                    "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                ))
            }
            Fault::Damaged => self.pass_on(&request, &mut reader, client, request.length, Some(at)).map(drop),
            Fault::Beginning => self.pass_on(&request, &mut reader, client, at, None).map(drop),
            Fault::Unanswered => {
                let (_, sink) = pair()?;
                self.pass_on(&request, &mut reader, &sink, request.length, None)?;
                reset(client)
            }
        }
    }

    /// Passes a request on with so much of its body, of which one byte may change, and the answer back.
    fn pass_on(
        &self,
        request: &Request,
        reader: &mut impl Read,
        mut client: &TcpStream,
        length: usize,
        damaged: Option<usize>,
    ) -> std::io::Result<u64> {
        let mut registry = TcpStream::connect(&self.registry)?;
        let lengths = [request.length, length].map(|length| format!("content-length: {length}\r\n"));
        let head =
            request.head.replace("Content-Length: ", "content-length: ").replace(&lengths[0], &lengths[1]);
        registry.write_all(head.as_bytes())?;
        let mut body = Vec::new();
        reader.take(request.length as u64).read_to_end(&mut body)?;
        if let Some(byte) = damaged.and_then(|at| body.get_mut(at)) {
            *byte ^= 1;
        }
        registry.write_all(&body[..length.min(body.len())])?;
        // The registry's own address in a `Location` would lead past the proxy.
        let mut answer = Vec::new();
        registry.read_to_end(&mut answer)?;
        let own = client.local_addr()?.to_string();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
        let head = String::from_utf8_lossy(&answer[..end]).replace(&self.registry, &own);
        client.write_all(head.as_bytes())?;
        client.write_all(&answer[end..])?;
        Ok(answer.len() as u64)
    }
}

/// The two ends of a connection whose first end is never read.
fn pair() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    Ok((near, listener.accept()?.0))
}

/// Ends a connection without a word.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?;
    Ok(())
}

/// An image with a layer of its own of so many bytes, and its name.
fn image(bytes: usize) -> String {
    let name = format!("local.invalid/{}:v1", unique("faults"));
    let directory = tempfile::tempdir().unwrap();
    let mut state = std::process::id();
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    std::fs::write(directory.path().join("large"), (0..bytes).map(|_| next()).collect::<Vec<u8>>()).unwrap();
    std::fs::write(directory.path().join("small"), &name).unwrap();
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\nCOPY large /\nCOPY small /\n")
        .unwrap();
    docker(&["build", "-q", "-t", &name, directory.path().to_str().unwrap()]);
    name
}

/// A push through a proxy that breaks, and what has to hold afterwards.
fn push(
    registry: &PlainRegistry,
    image: &str,
    fault: Fault,
    point: (&'static str, &'static str),
    times: usize,
    place: usize,
) {
    let case = format!("{fault:?} × {point:?} × {times} at {place}");
    let proxy = Proxy::start(&registry.host, fault, point, times, place);
    let repository = unique("faults");
    let config = registry.docker_config().replace(&registry.host, &proxy.address);
    let project = Project::new(indoc! {r"
        version: 1
        name: t
    "})
    .file(".home/.docker/config.json", config);
    let push = |tag: &str| {
        let call = format!("image push {image} {}/{repository}:{tag}", proxy.address);
        project.runner(&call).env("RUNNER_REGISTRY_TIMEOUT", "2s").run()
    };
    let outcome = push("v1");
    let served = registry.manifest(&repository, "v1");
    assert_eq!(outcome.code, Some(0), "{case}: {}", outcome.stderr);
    let digest = outcome.stdout.trim().rsplit('@').next().unwrap().to_owned();
    let (served, blobs) = served.unwrap_or_else(|| panic!("{case}: nothing is there"));
    assert_eq!(served, digest, "{case}");
    assert!(
        blobs.iter().all(|(digest, size)| registry.blob_size(&repository, digest) == Some(*size)),
        "{case}"
    );
    // What did not fail the push is told where it made it try again; half an answer without a body is none.
    let is_told = match fault {
        Fault::Expired | Fault::ExpiredInEcr | Fault::Damaged | Fault::Beginning => false,
        Fault::Truncated => point.0 != "HEAD",
        _ => true,
    };
    if proxy.left() < times && is_told {
        assert!(outcome.stderr.contains("tried again"), "{case}: {}", outcome.stderr);
    }
    assert_eq!(push("v2").code, Some(0), "{case}");
}

fn cases(seeds: std::ops::Range<usize>, mine: impl Fn(usize) -> bool) {
    let registry = PlainRegistry::start();
    let image = image(300_000);
    let mut number = 0;
    for seed in seeds {
        for fault in FAULTS {
            for point in POINTS {
                number += 1;
                let random = (number * 7919 + seed * 104_729) % 1000;
                if mine(number) {
                    push(&registry, &image, fault, point, 1 + random % 2, random % 100);
                }
            }
        }
    }
    docker(&["rmi", "-f", &image]);
}

/// All of them at full size; a seeded third of the first round otherwise.
#[test]
fn every_push_ends_complete_or_with_its_cause() {
    if std::env::var("RUNNER_SOAK").is_ok() {
        cases(0..10, |_| true);
    } else {
        cases(0..1, |number| number % 3 == 0);
    }
}

#[test]
fn a_permanent_fault_fails_the_push_and_sets_no_tag() {
    let registry = PlainRegistry::start();
    let image = image(300_000);
    for (fault, point, cause) in [
        (Fault::Damaged, ("PUT", "/blobs/uploads/"), "DIGEST_INVALID"),
        (Fault::Beginning, ("PUT", "/blobs/uploads/"), "the registry"),
        (Fault::Refused, ("GET", "/v2/"), "cannot be reached"),
        (Fault::ExpiredInEcr, ("PUT", "/manifests/"), "the login is not valid"),
    ] {
        let proxy = Proxy::start(&registry.host, fault, point, usize::MAX, 50);
        let config = registry.docker_config().replace(&registry.host, &proxy.address);
        let project = Project::new(indoc! {r"
            version: 1
            name: t
        "})
        .file(".home/.docker/config.json", config);
        let repository = unique("faults");
        let call = project.runner(&format!("image push {image} {}/{repository}:v1", proxy.address));
        let outcome = call.env("RUNNER_REGISTRY_PATIENCE", "1s").run();
        let outcome = outcome.exits(3).complains("error: the registry");
        assert!(outcome.stderr.contains(cause), "{fault:?}: {outcome}");
        assert!(registry.manifest(&repository, "v1").is_none(), "{fault:?}: a tag is there");
    }
    docker(&["rmi", "-f", &image]);
}

#[test]
fn a_push_that_is_stopped_says_so_and_leaves_nothing() {
    let registry = PlainRegistry::start();
    let image = image(300_000);
    let proxy = Proxy::start(&registry.host, Fault::Hang, ("PUT", "/blobs/uploads/"), usize::MAX, 0);
    let config = registry.docker_config().replace(&registry.host, &proxy.address);
    let project = Project::new(indoc! {r"
        version: 1
        name: t
    "})
    .file(".home/.docker/config.json", config);
    std::fs::create_dir(project.path("tmp")).unwrap();
    let repository = unique("faults");
    let call = project.runner(&format!("image push {image} {}/{repository}:v1", proxy.address));
    let running = call.env("TMPDIR", project.path("tmp").display().to_string()).start();
    crate::harness::eventually(|| proxy.left() < usize::MAX, "no upload begins");
    running.signal("INT");
    running.finish().exits(130).complains("no tag refers to an incomplete image");
    assert!(registry.manifest(&repository, "v1").is_none());
    assert_eq!(std::fs::read_dir(project.path("tmp")).unwrap().count(), 0);
    docker(&["rmi", "-f", &image]);
}

#[test]
fn a_restarted_registry_receives_the_whole_image() {
    let mut registry = PlainRegistry::start();
    let image = image(if std::env::var("RUNNER_SOAK").is_ok() { 1_000_000_000 } else { 60_000_000 });
    let repository = unique("restarted");
    let project = Project::new(indoc! {r"
            version: 1
            name: t
        "})
    .file(".home/.docker/config.json", registry.docker_config());
    let running = project.runner(&format!("image push {image} {}/{repository}:v1", registry.host)).start();
    // The first upload has begun.
    let patience = Duration::from_mins(10);
    crate::harness::within(patience, || registry.has_uploads(), "no upload begins");
    registry.restart();
    let outcome = running.finish().exits(0);
    let (served, blobs) = registry.manifest(&repository, "v1").unwrap();
    assert!(outcome.stdout.contains(&served));
    assert!(blobs.iter().all(|(digest, size)| registry.blob_size(&repository, digest) == Some(*size)));
    docker(&["rmi", "-f", &image]);
}

#[test]
fn the_layers_of_two_pushes_are_sent_once() {
    let registry = PlainRegistry::start();
    let image = image(100_000);
    let project = Project::new(indoc! {r"
            version: 1
            name: t
        "})
    .file(".home/.docker/config.json", registry.docker_config());
    let push = |tag: &str| {
        project.runner(&format!("image push {image} {}/again:{tag}", registry.host)).run().exits(0)
    };
    let first = push("v1").complains("3 blobs sent");
    let second = push("v2").complains("0 blobs sent (0 B), 3 were there already");
    assert_eq!(first.stdout, second.stdout);
    assert!(first.stdout.starts_with(&format!("{}/again@sha256:", registry.host)));
    let requests = registry.requests();
    let sent = requests.iter().filter(|(method, path)| method == "PUT" && path.contains("/blobs/uploads/"));
    assert_eq!(sent.count(), 3, "{requests:?}");
    docker(&["rmi", "-f", &image]);
}

/// A registry whose token service gives tokens that are good for eight requests.
fn with_tokens(registry: &str) -> (String, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (given, left) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let passing = Breaking {
        registry: registry.to_owned(),
        fault: Fault::Hang,
        point: POINTS[0],
        left: Arc::default(),
        place: 0,
    };
    let (own, count) = (address.clone(), given.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let Some(mut request) = Request::read(&mut reader) else { continue };
            let answer = |status: &str, more: &str, body: &str| {
                let length = body.len();
                let text = format!(
                    "HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                let _ = (&client).write_all(text.as_bytes());
            };
            let (mut given, mut left) = (count.lock().unwrap(), left.lock().unwrap());
            let token = format!("Bearer token-{given}\r\n");
            if request.head.starts_with("GET /token?") {
                // user:pass
                let known = request.head.contains("Basic dXNlcjpwYXNz")
                    && request.head.contains("scope=repository%3Aown%3Apull%2Cpush");
                if known {
                    (*given, *left) = (*given + 1, 8);
                    answer("200 OK", "", &format!("{{\"token\":\"token-{given}\",\"expires_in\":300}}"));
                } else {
                    answer("401 Unauthorized", "", "");
                }
            } else if request.head.starts_with("POST /token ") {
                let mut form = String::new();
                reader.take(request.length as u64).read_to_string(&mut form).unwrap();
                let wanted = [
                    "grant_type=refresh_token",
                    "refresh_token=my-identity",
                    "scope=repository%3Aown%3Apull%2Cpush",
                ];
                if wanted.iter().all(|part| form.split('&').any(|field| field == *part)) {
                    (*given, *left) = (*given + 1, 8);
                    answer("200 OK", "", &format!("{{\"access_token\":\"token-{given}\"}}"));
                } else {
                    answer("401 Unauthorized", "", "");
                }
            } else if *left > 0 && request.head.contains(&token) {
                *left -= 1;
                request.head = request.head.replace(&token, "Basic dXNlcjpwYXNz\r\n");
                let _ = passing.pass_on(&request, &mut reader, &client, request.length, None);
            } else {
                // What was not read would reset the connection before the answer is.
                let _ = std::io::copy(&mut reader.take(request.length as u64), &mut std::io::sink());
                let challenge =
                    format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"t\"\r\n");
                answer("401 Unauthorized", &challenge, "");
            }
        }
    });
    (address, given)
}

#[test]
fn tokens_that_expire_in_the_middle_are_renewed() {
    let registry = PlainRegistry::start();
    let image = image(100_000);
    let (address, given) = with_tokens(&registry.host);
    let config = registry.docker_config().replace(&registry.host, &address);
    let project = Project::new(indoc! {r"
        version: 1
        name: t
    "})
    .file(".home/.docker/config.json", config);
    let call = format!("image push {image} {address}/own:v1");
    project.runner(&call).run().exits(0).complains("3 blobs sent");
    assert!(registry.manifest("own", "v1").is_some());
    assert!(*given.lock().unwrap() >= 2, "{given:?}");
    // An identity token is exchanged.
    let identity =
        format!("{{\"auths\":{{\"{address}\":{{\"auth\":\"\",\"identitytoken\":\"my-identity\"}}}}}}");
    let project = project.file(".home/.docker/config.json", identity);
    let outcome = project.runner(&format!("image push {image} {address}/own:v3")).run().exits(0);
    outcome.says("/own@sha256:").says_not("my-identity");
    // A login that is not valid is said, at once.
    let project = project.file(
        ".home/.docker/config.json",
        registry.docker_config().replace(&registry.host, &address).replace("dXNlcjpwYXNz", "dXNlcjpub3Q="),
    );
    let outcome = project.runner(&format!("image push {image} {address}/own:v2")).run().exits(3);
    outcome.complains("its token service rejects the login");
    docker(&["rmi", "-f", &image]);
}
