//! Servers that one test starts and stops.

pub use crate::recorded_aws::{AwsCall, RecordedAws};

use crate::harness::{docker, eventually, shell};
use indoc::{formatdoc, indoc};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A child process that ends with the test.
pub struct Server(Child);

impl Server {
    pub fn start(program: &str, arguments: &[&str], log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}; run the tests with ./dev test")),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // TERM, so that it can end what it started itself.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A port of 127.0.0.1 without a listener.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Serves the git repositories below a directory, and answers with the beginning of their addresses.
pub fn repositories(directory: &Path) -> (Server, String) {
    let program = format!("{}/git-daemon", shell("git", &["--exec-path"]).trim());
    let (base, port) = (format!("--base-path={}", directory.display()), free_port());
    let arguments = [
        "--export-all",
        "--listen=127.0.0.1",
        &base,
        &format!("--port={port}"),
        "--reuseaddr",
        "--log-destination=stderr",
    ];
    let server = Server::start(&program, &arguments, &directory.join("daemon.log"));
    eventually(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "git-daemon does not come up");
    (server, format!("git://127.0.0.1:{port}"))
}

/// Serves the files of a directory, and answers with its address.
pub fn files(directory: &Path) -> (Server, String) {
    let (path, port) = (directory.display().to_string(), free_port().to_string());
    let arguments = ["-m", "http.server", "--bind", "127.0.0.1", "-d", &path, &port];
    let server = Server::start("python3", &arguments, &directory.join("http.log"));
    let address = format!("127.0.0.1:{port}");
    eventually(|| std::net::TcpStream::connect(&address).is_ok(), "http.server does not come up");
    (server, format!("http://{address}"))
}

/// A registry over plain HTTP that wants a login. BuildKit speaks to it because it is on this machine.
pub struct PlainRegistry {
    server: Option<Server>,
    directory: tempfile::TempDir,
    /// `127.0.0.1:PORT`
    pub host: String,
}

impl PlainRegistry {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let host = format!("127.0.0.1:{}", free_port());
        std::fs::write(directory.path().join("htpasswd"), shell("htpasswd", &["-nbB", "user", "pass"]))
            .unwrap();
        let config = formatdoc! {r"
            version: 0.1
            log: {{ level: error, accesslog: {{ disabled: false }} }}
            storage: {{ filesystem: {{ rootdirectory: {root}/data }} }}
            auth: {{ htpasswd: {{ realm: t, path: {root}/htpasswd }} }}
            http: {{ addr: {host} }}
        "};
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut registry = Self { server: None, directory, host };
        registry.restart();
        registry
    }

    /// Kills it, as far as it runs, and starts it (again) with what it has stored.
    pub fn restart(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.0.kill();
        }
        let [log, config] = ["log", "config.yml"].map(|name| self.directory.path().join(name));
        self.server = Some(Server::start("docker-registry", &["serve", config.to_str().unwrap()], &log));
        eventually(|| TcpStream::connect(&self.host).is_ok(), "the registry does not come up");
    }

    /// Whether a blob is on its way to it.
    pub fn has_uploads(&self) -> bool {
        let data = self.directory.path().join("data").display().to_string();
        let find = ["-path", "*/_uploads/*/data", "-size", "+0"];
        let found = Command::new("find").arg(data).args(find).stderr(Stdio::null()).output().unwrap();
        !found.stdout.is_empty()
    }

    fn get(&self, path: &str, more: &[&str]) -> Option<String> {
        let url = format!("http://{}/v2/{path}", self.host);
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let output = Command::new("curl")
            .args(["-fsS", "-u", "user:pass", "-H", accept])
            .args(more)
            .arg(&url)
            .output();
        let output = output.unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The manifest of a tag, and its blobs with their sizes. Returns `None` if the tag does not exist.
    pub fn manifest(&self, repository: &str, tag: &str) -> Option<(String, Vec<(String, u64)>)> {
        let path = format!("{repository}/manifests/{tag}");
        let head = self.get(&path, &["-I"])?;
        let digest = head.lines().find_map(|line| {
            line.to_lowercase().strip_prefix("docker-content-digest: ").map(|digest| digest.trim().to_owned())
        })?;
        let manifest: Value = serde_json::from_str(&self.get(&path, &[])?).unwrap();
        let blobs = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        let blobs =
            blobs.map(|blob| (blob["digest"].as_str().unwrap().to_owned(), blob["size"].as_u64().unwrap()));
        Some((digest, blobs.collect()))
    }

    /// The size of a blob. Returns `None` if it does not exist.
    pub fn blob_size(&self, repository: &str, digest: &str) -> Option<u64> {
        let head = self.get(&format!("{repository}/blobs/{digest}"), &["-I"])?;
        head.lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.trim().parse().ok())
    }

    /// The requests that were answered with success or `not found`, as method and path, in their order.
    pub fn requests(&self) -> Vec<(String, String)> {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap();
        // 127.0.0.1 - - [time] "PUT /v2/name/manifests/tag HTTP/1.1" 201 0 "" ""
        let request = |line: &str| {
            let mut quoted = line.split('"');
            let (request, status) = (quoted.nth(1)?, quoted.next()?.split_whitespace().next()?);
            let mut words = request.split(' ');
            let (method, path) = (words.next()?, words.next()?);
            (path.starts_with("/v2/") && status != "401").then(|| (method.to_owned(), path.to_owned()))
        };
        log.lines().filter_map(request).collect()
    }

    /// Docker's configuration with the login of this registry.
    pub fn docker_config(&self) -> String {
        format!("{{\"auths\":{{\"{}\":{{\"auth\":\"dXNlcjpwYXNz\"}}}}}}", self.host)
    }
}

/// A socket in front of the machine's engine, which keeps what comes in.
pub struct RecordedEngine {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<u8>>>,
    answered: Arc<AtomicU64>,
}

impl RecordedEngine {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let engine = Self { directory, asked: Arc::default(), answered: Arc::default() };
        let (asked, answered) = (engine.asked.clone(), engine.answered.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let server = UnixStream::connect("/var/run/docker.sock").unwrap();
                let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let answered = answered.clone();
                std::thread::spawn(move || {
                    let mut buffer = [0; 16384];
                    while let Ok(length @ 1..) = answers.read(&mut buffer) {
                        answered.fetch_add(length as u64, Ordering::SeqCst);
                        if back.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = back.shutdown(Shutdown::Both);
                });
                let (asked, mut from, mut to) = (asked.clone(), client, server);
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        asked.lock().unwrap().extend_from_slice(&buffer[..length]);
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        engine
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    /// How many bytes went out.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Whether this text came in.
    pub fn was_asked(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.asked.lock().unwrap()).contains(text)
    }
}

/// A Docker Engine with the bed's kind of registry in a network of its own, so that it touches nothing of the machine's
/// engine. It is needed because BuildKit reads the certificates of registries only when the engine starts, and the machine's
/// engine may have started before the test bed made them.
pub struct OwnEngine {
    server: Server,
    directory: tempfile::TempDir,
}

/// Makes a network with only a loopback, trusts the registry's authority there, and starts both. `$1` is the directory,
/// `$2` the registry's host name.
const OWN_ENGINE: &str = r#"
set -eu
cd "$1"
ip link set lo up
mkdir -p "certs.d/$2" /etc/docker/certs.d
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
openssl req -x509 $key -keyout ca.key -out "certs.d/$2/ca.crt" -subj /CN=test -addext basicConstraints=critical,CA:TRUE
openssl req $key -keyout host.key -out host.csr -subj /CN=registry
printf 'subjectAltName=DNS:%s\n' "$2" > ext
openssl x509 -req -in host.csr -CA "certs.d/$2/ca.crt" -CAkey ca.key -CAcreateserial -days 2 -out host.crt -extfile ext
mount --bind certs.d /etc/docker/certs.d
printf '127.0.0.1 localhost %s\n' "$2" > hosts
mount --bind hosts /etc/hosts
docker-registry serve registry.yml &
registry=$!
trap 'kill $registry $engine; wait $engine' TERM
dockerd --config-file engine.json --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" &
engine=$!
wait $engine || true
kill $registry
"#;

impl OwnEngine {
    /// `host` is the registry's name, which only this network knows.
    pub fn start(host: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let login = shell("htpasswd", &["-nbB", "AWS", "123456789012-auth-token"]);
        std::fs::write(root.join("htpasswd"), login).unwrap();
        std::fs::write(root.join("engine.json"), "{}").unwrap();
        let registry = indoc! {r"
            version: 0.1
            storage: { filesystem: { rootdirectory: registry } }
            auth: { htpasswd: { realm: t, path: htpasswd } }
            http: { addr: 127.0.0.1:443, tls: { certificate: host.crt, key: host.key } }
        "};
        std::fs::write(root.join("registry.yml"), registry).unwrap();
        let path = root.to_str().unwrap();
        let arguments = ["-nm", "sh", "-c", OWN_ENGINE, "sh", path, host];
        let server = Server::start("unshare", &arguments, &root.join("log"));
        let engine = Self { server, directory };
        let answers = || {
            let info = Command::new("docker").args(["-H", &engine.host(), "info"]).output();
            info.is_ok_and(|output| output.status.success())
        };
        eventually(answers, "the engine does not come up");
        engine
    }

    /// The value for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    /// What runs a program in a directory and the engine's network, with the names and authorities that are known there.
    pub fn network(&self, directory: &Path) -> Vec<String> {
        let (pid, directory) = (self.server.0.id().to_string(), directory.to_str().unwrap());
        ["nsenter", "-t", &pid, "-n", "-m", "--", "env", "-C", directory].map(ToOwned::to_owned).to_vec()
    }

    /// Asks this engine.
    pub fn docker(&self, arguments: &[&str]) -> String {
        docker(&[&["-H", self.host().as_str()], arguments].concat())
    }

    /// Gives it an image of the machine's engine.
    pub fn load(&self, image: &str) {
        load_into(&self.host(), self.directory.path(), image);
    }

    /// Puts an image of the machine's engine into this engine's registry, and only there.
    pub fn publish(&self, image: &str, name: &str) {
        self.load(image);
        self.docker(&["tag", image, name]);
        std::fs::write(self.directory.path().join("config.json"), crate::harness::docker_config()).unwrap();
        let config = self.directory.path().to_str().unwrap();
        docker(&["--config", config, "-H", &self.host(), "push", "-q", name]);
        self.docker(&["rmi", name, image]);
    }
}

/// Gives another engine an image of the machine's engine, by way of a file in a directory.
fn load_into(engine: &str, directory: &Path, image: &str) {
    let archive = directory.join("image.tar");
    docker(&["save", "-o", archive.to_str().unwrap(), image]);
    docker(&["-H", engine, "load", "-q", "-i", archive.to_str().unwrap()]);
}

/// A Docker Engine that listens with TLS, in a network of its own.
pub struct TlsEngine {
    server: Server,
    directory: tempfile::TempDir,
}

/// `$1` is the directory. In `certs` is what a client takes, in `other` the same of another authority.
const TLS_ENGINE: &str = r#"
set -eu
cd "$1"
ip link set lo up
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
for authority in certs other; do
  mkdir "$authority"
  openssl req -x509 $key -keyout ca.key -out "$authority/ca.pem" -subj "/CN=$authority" -addext basicConstraints=critical,CA:TRUE
  openssl req $key -keyout "$authority/key.pem" -out client.csr -subj /CN=client
  echo extendedKeyUsage=clientAuth > client.ext
  openssl x509 -req -in client.csr -CA "$authority/ca.pem" -CAkey ca.key -CAcreateserial -days 2 -out "$authority/cert.pem" -extfile client.ext
  [ "$authority" = other ] || {
    openssl req $key -keyout engine.key -out engine.csr -subj /CN=engine
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > engine.ext
    openssl x509 -req -in engine.csr -CA certs/ca.pem -CAkey ca.key -CAcreateserial -days 2 -out engine.pem -extfile engine.ext
  }
done
echo '{}' > engine.json
exec dockerd --config-file engine.json --tlsverify --tlscacert certs/ca.pem --tlscert engine.pem --tlskey engine.key --host tcp://127.0.0.1:2376 \
  --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid"
"#;

impl TlsEngine {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let arguments = ["-nm", "sh", "-c", TLS_ENGINE, "sh", root.to_str().unwrap()];
        let server = Server::start("unshare", &arguments, &root.join("log"));
        let engine = Self { server, directory };
        let answers = || {
            let info = Command::new("docker").args(["-H", &engine.socket(), "info"]).output();
            info.is_ok_and(|output| output.status.success())
        };
        eventually(answers, "the engine does not come up");
        engine
    }

    /// Its socket, which is there to prepare it.
    fn socket(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    /// Gives it an image of the machine's engine.
    pub fn load(&self, image: &str) {
        load_into(&self.socket(), self.directory.path(), image);
    }

    /// A directory with certificates.
    pub fn certificates(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// What runs a program in its network.
    pub fn network(&self) -> Vec<String> {
        let pid = self.server.0.id().to_string();
        ["nsenter", "-t", &pid, "-n", "--"].map(ToOwned::to_owned).to_vec()
    }
}

/// An ssh server on this machine for one user and key, and an `ssh` that knows them.
pub struct SshServer {
    _server: Server,
    directory: tempfile::TempDir,
    /// `root@127.0.0.1:PORT`
    pub address: String,
}

impl SshServer {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let path = |name: &str| root.join(name).display().to_string();
        for name in ["host", "user", "stranger"] {
            shell("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path(name)]);
        }
        let port = free_port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n",
            path("host"),
            path("user.pub")
        );
        std::fs::write(root.join("sshd_config"), config).unwrap();
        let host_key = std::fs::read_to_string(root.join("host.pub")).unwrap();
        std::fs::write(root.join("known"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        // Where privileges are given up; usually the system makes it at the boot.
        std::fs::create_dir_all("/run/sshd").unwrap();
        let sshd = shell("sh", &["-c", "PATH=$PATH:/usr/sbin command -v sshd"]);
        let server = Server::start(sshd.trim(), &["-D", "-e", "-f", &path("sshd_config")], &root.join("log"));
        let server = Self { _server: server, directory, address: format!("root@127.0.0.1:{port}") };
        let address = format!("127.0.0.1:{port}");
        eventually(|| TcpStream::connect(&address).is_ok(), "sshd does not come up");
        server
    }

    /// A directory for PATH whose `ssh` uses one of the keys `user` and `stranger`, and one of the lists `known` and `none` of
    /// servers. It notes its processes.
    pub fn program(&self, key: &str, known: &str) -> String {
        let root = self.directory.path().display();
        let directory = self.directory.path().join(format!("{key}-{known}"));
        std::fs::create_dir_all(&directory).unwrap();
        let config = format!(
            "IdentityFile {root}/{key}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {root}/{known}\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\n"
        );
        std::fs::write(directory.join("config"), config).unwrap();
        let real = shell("sh", &["-c", "command -v ssh"]);
        let text = format!(
            "#!/bin/sh\necho $$ >> {root}/processes\nexec {} -F {} \"$@\"\n",
            real.trim(),
            directory.join("config").display()
        );
        let program = directory.join("ssh");
        std::fs::write(&program, text).unwrap();
        shell("chmod", &["755", program.to_str().unwrap()]);
        format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
    }

    /// The processes of `ssh` that were started.
    pub fn processes(&self) -> Vec<String> {
        let list = std::fs::read_to_string(self.directory.path().join("processes")).unwrap_or_default();
        list.lines().map(ToOwned::to_owned).collect()
    }
}

/// Copies an image of the machine's engine into a registry under another name.
pub fn copy_to_registry(image: &str, name: &str, config: &str) {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("config.json"), config).unwrap();
    docker(&["tag", image, name]);
    docker(&["--config", home.path().to_str().unwrap(), "push", "-q", name]);
    docker(&["rmi", name]);
}
