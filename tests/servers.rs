//! Servers that a single test starts for itself, and ends.

use crate::harness::{docker, eventually, shell};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A child process that ends with the test.
struct Server(Child);

impl Server {
    fn start(program: &str, arguments: &[&str], log: &Path) -> Self {
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

/// A registry over plain HTTP that wants a login. BuildKit speaks to it because it is on this machine.
pub struct PlainRegistry {
    _server: Server,
    _directory: tempfile::TempDir,
    /// `127.0.0.1:PORT`
    pub host: String,
}

impl PlainRegistry {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        std::fs::write(directory.path().join("htpasswd"), shell("htpasswd", &["-nbB", "user", "pass"]))
            .unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {root}/data }} }}\nauth: {{ htpasswd: {{ realm: t, path: {root}/htpasswd }} }}\nhttp: {{ addr: {host} }}\n"
        );
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = directory.path().join("log");
        let server = Server::start("docker-registry", &["serve", path.to_str().unwrap()], &log);
        eventually(|| std::net::TcpStream::connect(&host).is_ok(), "the registry does not come up");
        Self { _server: server, _directory: directory, host }
    }

    /// Docker's configuration with the login of this registry.
    pub fn docker_config(&self) -> String {
        format!("{{\"auths\":{{\"{}\":{{\"auth\":\"dXNlcjpwYXNz\"}}}}}}", self.host)
    }
}

/// A Docker Engine with the bed's kind of registry in a network of its own, so that it touches nothing of the machine's
/// engine. It is needed because BuildKit reads the certificates of registries only when the engine starts, and the machine's
/// engine may have started before the test bed made them.
pub struct OwnEngine {
    _server: Server,
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
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let login = shell("htpasswd", &["-nbB", "AWS", "123456789012-auth-token"]);
        std::fs::write(root.join("htpasswd"), login).unwrap();
        std::fs::write(root.join("engine.json"), "{}").unwrap();
        let registry = "version: 0.1\nstorage: { filesystem: { rootdirectory: registry } }\nauth: { htpasswd: { realm: t, path: htpasswd } }\nhttp: { addr: 127.0.0.1:443, tls: { certificate: host.crt, key: host.key } }\n";
        std::fs::write(root.join("registry.yml"), registry).unwrap();
        let path = root.to_str().unwrap();
        let arguments = ["-nm", "sh", "-c", OWN_ENGINE, "sh", path, &crate::harness::registry()];
        let server = Server::start("unshare", &arguments, &root.join("log"));
        let engine = Self { _server: server, directory };
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

    /// Puts an image of the machine's engine into this engine's registry, and only there.
    pub fn publish(&self, image: &str, name: &str) {
        let archive = self.directory.path().join("image.tar");
        docker(&["save", "-o", archive.to_str().unwrap(), image]);
        let host = self.host();
        let own = |arguments: &[&str]| docker(&[&["-H", host.as_str()], arguments].concat());
        own(&["load", "-q", "-i", archive.to_str().unwrap()]);
        own(&["tag", image, name]);
        std::fs::write(self.directory.path().join("config.json"), crate::harness::docker_config()).unwrap();
        docker(&["--config", self.directory.path().to_str().unwrap(), "-H", &host, "push", "-q", name]);
        own(&["rmi", name, image]);
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
