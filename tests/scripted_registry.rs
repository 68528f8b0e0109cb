//! A registry in memory, whose answers a test can replace one by one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiny_http::{Header, Response, Server};

/// A request, read to its end.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// The path without the query.
    pub path: String,
    pub query: String,
    /// The value of `Authorization`, or empty.
    pub login: String,
    /// How many requests of this method and path came before.
    pub before: usize,
}

impl Asked {
    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

/// An answer in the registry's place.
pub struct Said {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    /// The registry carries out the request first.
    carries_out: bool,
}

pub fn said(status: u16) -> Said {
    Said { status, headers: Vec::new(), body: Vec::new(), delay: Duration::ZERO, carries_out: false }
}

impl Said {
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn carried_out(mut self) -> Self {
        self.carries_out = true;
        self
    }
}

#[derive(Default)]
struct Held {
    requests: Vec<Asked>,
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, Vec<u8>>,
    uploads: usize,
}

pub struct ScriptedRegistry {
    pub host: String,
    held: Arc<Mutex<Held>>,
}

type Script = dyn Fn(&Asked) -> Option<Said> + Send + Sync;

impl ScriptedRegistry {
    /// `script` may answer in the registry's place. `HOST` in its headers and bodies becomes the registry's host.
    pub fn start(script: impl Fn(&Asked) -> Option<Said> + Send + Sync + 'static) -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
        let host = server.server_addr().to_ip().unwrap().to_string();
        let (held, script) = (Arc::<Mutex<Held>>::default(), Arc::new(script) as Arc<Script>);
        for _ in 0..8 {
            let (server, held, script, host) = (server.clone(), held.clone(), script.clone(), host.clone());
            std::thread::spawn(move || {
                for request in server.incoming_requests() {
                    answer(request, &held, &*script, &host);
                }
            });
        }
        Self { host, held }
    }

    pub fn requests(&self) -> Vec<Asked> {
        self.held.lock().unwrap().requests.clone()
    }

    /// How many requests there were of this method and path.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.requests().iter().filter(|asked| asked.is(method, part)).count()
    }

    /// Whether a tag refers to an image whose blobs are all there.
    pub fn is_complete(&self, tag: &str) -> bool {
        let held = self.held.lock().unwrap();
        let manifest = held.manifests.iter().find(|(path, _)| path.ends_with(&format!("/manifests/{tag}")));
        let Some((_, bytes)) = manifest else { return false };
        let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        layers.into_iter().all(|blob| held.blobs.contains_key(blob["digest"].as_str().unwrap()))
    }

    /// Docker's configuration with the login `user:pass` for it.
    pub fn docker_config(&self) -> String {
        format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, self.host)
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn answer(mut request: tiny_http::Request, held: &Mutex<Held>, script: &Script, host: &str) {
    let mut body = Vec::new();
    request.as_reader().read_to_end(&mut body).unwrap();
    let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
    let login = request.headers().iter().find(|header| header.field.equiv("Authorization"));
    let asked = {
        let mut held = held.lock().unwrap();
        let method = request.method().to_string();
        let same = held.requests.iter().filter(|asked| asked.method == method && asked.path == path);
        let before = same.count();
        let login = login.map(|header| header.value.to_string()).unwrap_or_default();
        let asked = Asked { method, path: path.to_owned(), query: query.to_owned(), login, before };
        held.requests.push(asked.clone());
        asked
    };
    let said = match script(&asked) {
        Some(said) => {
            if said.carries_out {
                own(&asked, body, &mut held.lock().unwrap());
            }
            said
        }
        None => own(&asked, body, &mut held.lock().unwrap()),
    };
    std::thread::sleep(said.delay);
    let body = String::from_utf8(said.body).map(|text| text.replace("HOST", host).into_bytes());
    let body = body.unwrap_or_else(std::string::FromUtf8Error::into_bytes);
    let mut response = Response::from_data(body).with_status_code(said.status);
    for (name, value) in said.headers {
        response.add_header(Header::from_bytes(name, value.replace("HOST", host)).unwrap());
    }
    let _ = request.respond(response);
}

/// The registry's own answer.
fn own(asked: &Asked, body: Vec<u8>, held: &mut Held) -> Said {
    let last = asked.path.rsplit('/').next().unwrap_or_default().to_owned();
    let digest_header = "Docker-Content-Digest";
    let is_upload = asked.path.contains("/blobs/uploads/");
    match asked.method.as_str() {
        "POST" if is_upload => {
            held.uploads += 1;
            said(202).header("Location", format!("{}{}", asked.path, held.uploads))
        }
        "PUT" if is_upload => {
            held.blobs.insert(digest(&body), body);
            said(201)
        }
        "HEAD" | "GET" if asked.path.contains("/blobs/") => match held.blobs.get(&last) {
            Some(bytes) => said(200).body(bytes.as_slice()),
            None => said(404),
        },
        "PUT" if asked.path.contains("/manifests/") => {
            let digest = digest(&body);
            let by_digest = asked.path.replace(&last, &digest);
            held.manifests.insert(by_digest, body.clone());
            held.manifests.insert(asked.path.clone(), body);
            said(201).header(digest_header, digest)
        }
        "HEAD" | "GET" if asked.path.contains("/manifests/") => match held.manifests.get(&asked.path) {
            Some(bytes) => said(200)
                .header(digest_header, digest(bytes))
                .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                .body(bytes.as_slice()),
            None => said(404),
        },
        "GET" if asked.path.ends_with("/tags/list") => said(200).body(r#"{"tags":[]}"#),
        _ => said(200),
    }
}
