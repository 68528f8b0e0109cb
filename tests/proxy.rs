//! The proxies of the environment.

use crate::harness::{Project, aws_endpoint, registry, unique};
use indoc::formatdoc;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A proxy that records the targets of its requests.
struct Proxy {
    address: String,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let targets: Arc<Mutex<Vec<String>>> = Arc::default();
        let recorded = targets.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let targets = recorded.clone();
                std::thread::spawn(move || serve(stream, &targets));
            }
        });
        Self { address, targets }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The hosts that it was asked for, each once.
    fn targets(&self) -> Vec<String> {
        let mut targets = self.targets.lock().unwrap().clone();
        targets.sort();
        targets.dedup();
        targets
    }
}

/// Serves one request: a tunnel, or a request in absolute form.
fn serve(client: TcpStream, targets: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line);
    }
    let mut words = head[0].split(' ').map(ToOwned::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let (host, path) = match target.strip_prefix("http://") {
        None => (target.clone(), String::new()),
        Some(rest) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            (host.to_owned(), format!("/{path}"))
        }
    };
    targets.lock().unwrap().push(host.clone());
    let mut server = TcpStream::connect(&host).ok()?;
    let mut client = client;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    } else {
        // One request for each connection, because the next one may be for another host.
        let fields = head[1..].iter().filter(|line| !line.to_lowercase().starts_with("connection:"));
        let fields: String = fields.cloned().collect();
        let request = format!("{method} {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
        server.write_all(request.as_bytes()).ok()?;
    }
    let mut answer = server.try_clone().ok()?;
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut answer, &mut client);
        let _ = client.shutdown(std::net::Shutdown::Both);
    });
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = reader.read(&mut buffer) {
        if server.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(std::net::Shutdown::Write);
    back.join().ok()
}

/// A pipeline that uses AWS, a registry and a webhook.
fn project(webhook: &str) -> Project {
    let name = unique("proxied");
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, create: true, tags: ["${{source.commit}}"] }} }}
        notify: [{{ webhook: {{ url: "http://{webhook}/hook" }} }}]
        phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}
    "#})
    .file("Dockerfile", "FROM busybox:1.36\nCMD [\"true\"]\n")
    .git()
}

/// A server that answers every request with 200.
fn webhook() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

/// Findings, B13.
#[test]
fn aws_registries_and_webhooks_use_the_same_proxies() {
    let (proxy, webhook) = (Proxy::start(), webhook());
    let aws = aws_endpoint().trim_start_matches("http://").to_owned();
    let host = format!("{}:443", registry());
    let call = |no_proxy: &str| {
        let project = project(&webhook);
        let call = project.runner("run --publish").aws();
        let call = call.env("HTTPS_PROXY", proxy.url()).env("HTTP_PROXY", proxy.url());
        call.env("NO_PROXY", no_proxy).run().exits(0);
    };
    call("*");
    assert_eq!(proxy.targets(), [""; 0]);
    call(&format!("127.0.0.1,{}", registry()));
    assert_eq!(proxy.targets(), [""; 0]);
    call("");
    let mut expected = vec![aws, host, webhook.clone()];
    expected.sort();
    assert_eq!(proxy.targets(), expected);
}

/// Findings, B13: a proxy that is not there is named; one that cannot be one is an error.
#[test]
fn a_proxy_is_named_where_it_is_the_cause() {
    let project = project("127.0.0.1:1");
    let call = |command: &str, proxy: &str| {
        let call = project.runner(command).aws().env("AWS_ENDPOINT_URL", "https://aws.invalid.example");
        call.env("HTTPS_PROXY", proxy).run()
    };
    call("doctor", "http://127.0.0.1:3")
        .exits(3)
        .says("through the proxy 127.0.0.1:3 (HTTPS_PROXY)")
        .says("127.0.0.1:3 for https (HTTPS_PROXY)");
    for command in ["doctor", "run --publish"] {
        let outcome = call(command, "socks5://127.0.0.1:3").exits(2);
        outcome.complains("the variable HTTPS_PROXY names no HTTP proxy");
    }
}

/// A server that answers every request, tunnels included, with this status line, or never if it is empty.
fn refusing(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            if status.is_empty() {
                held.push(stream);
            } else {
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
            }
        }
    });
    address
}

/// Findings, B13: errors of registries name the proxy and its variable, and never a password.
#[test]
fn errors_of_registries_name_the_proxy() {
    let (silent, refuses, asks) =
        (refusing(""), refusing("403 Forbidden"), refusing("407 Proxy Authentication Required"));
    let (unavailable, plain) = (refusing("502 Bad Gateway"), refusing("200 OK"));
    let secure = "registry.invalid.example/app:t";
    let on_loopback = format!("{plain}/app:t");
    let cases = [
        (
            secure,
            "HTTPS_PROXY",
            "127.0.0.1:3",
            "the registry registry.invalid.example cannot be reached through the proxy 127.0.0.1:3 (HTTPS_PROXY): ",
        ),
        (
            secure,
            "https_proxy",
            &refuses,
            &format!("cannot be reached through the proxy {refuses} (https_proxy): "),
        ),
        (secure, "ALL_PROXY", &asks, &format!("cannot be reached through the proxy {asks} (ALL_PROXY): ")),
        (
            secure,
            "HTTPS_PROXY",
            &silent,
            &format!("did not respond for 1 s through the proxy {silent} (HTTPS_PROXY)"),
        ),
        (
            secure,
            "HTTPS_PROXY",
            "proxy.invalid.example:1",
            "through the proxy proxy.invalid.example:1 (HTTPS_PROXY): ",
        ),
        // The response to a request without TLS may be the proxy's own.
        (
            &on_loopback,
            "HTTP_PROXY",
            &unavailable,
            &format!("502 Bad Gateway through the proxy {unavailable} (HTTP_PROXY)"),
        ),
        (
            &on_loopback,
            "http_proxy",
            &refuses,
            &format!("refuses access: Forbidden through the proxy {refuses} (http_proxy)"),
        ),
    ];
    // Each waits for its retries.
    std::thread::scope(|scope| {
        for (destination, variable, proxy, says) in cases {
            scope.spawn(move || {
                let project = Project::new("");
                let call = project
                    .runner(&format!("image push busybox:1.36 {destination}"))
                    .env(variable, format!("http://me:pass-word-1@{proxy}"))
                    .env("RUNNER_REGISTRY_TIMEOUT", "1s")
                    .env("RUNNER_REGISTRY_PATIENCE", "1s");
                call.run().exits(3).complains(says).says_not("pass-word-1");
            });
        }
    });
    // A registry that is reached directly blames no proxy.
    let project = Project::new("");
    let direct = project
        .runner("image push busybox:1.36 127.0.0.1:1/app:t")
        .env("HTTPS_PROXY", "http://127.0.0.1:3")
        .env("HTTP_PROXY", "http://127.0.0.1:3")
        .env("NO_PROXY", "127.0.0.1")
        .env("RUNNER_REGISTRY_PATIENCE", "1s");
    direct.run().exits(3).complains("the registry 127.0.0.1:1 cannot be reached: ").says_not("proxy 127");
}

/// Findings, B13: errors of webhooks name it, too. Commands may print the variable, but not its password.
#[test]
fn errors_of_webhooks_name_the_proxy() {
    let unavailable = refusing("502 Bad Gateway");
    for (url, variable, proxy, says) in [
        (
            "https://hook.invalid.example/x",
            "HTTPS_PROXY",
            "127.0.0.1:3",
            "the webhook notification was not delivered through the proxy 127.0.0.1:3 (HTTPS_PROXY): ",
        ),
        (
            "https://hook.invalid.example/x",
            "all_proxy",
            &unavailable,
            &format!("was not delivered through the proxy {unavailable} (all_proxy): "),
        ),
        (
            "http://127.0.0.1:1/x",
            "HTTP_PROXY",
            &unavailable,
            &format!(
                "was not delivered through the proxy {unavailable} (HTTP_PROXY): the receiver responded with 502 Bad Gateway"
            ),
        ),
        ("http://127.0.0.1:1/x", "HTTPS_PROXY", &unavailable, "the webhook notification was not delivered: "),
    ] {
        let project = Project::new(&formatdoc! {r#"
            version: 1
            name: t
            env: {{ shell: sh }}
            notify: [{{ webhook: {{ url: "{url}" }}, on: [succeeded] }}]
            phases: {{ build: {{ steps: [{{ run: env | grep -i _proxy }}] }} }}
        "#});
        let call = project.runner("run --publish").env(variable, format!("http://me:p%40ss-w0rd@{proxy}"));
        let outcome = call.run().exits(0).complains(says).says(&format!("{variable}=http://me:***@{proxy}"));
        outcome.says_not("ss-w0rd");
    }
}
