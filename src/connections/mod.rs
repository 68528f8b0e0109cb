//! Connections to Docker, AWS and registries, opened when a step first needs them.

pub(crate) mod dockerd;
pub(crate) mod failure;

use crate::address::{EcrRegistry, is_ecr_public};
use crate::aws::Aws;
use crate::docker::host::Endpoint;
use crate::docker::solver::Logins;
use crate::docker::{DockerError, Engine, daemon};
use crate::docker_config::DockerConfig;
use crate::exit::{Exit, Failure};
use crate::plan::Mode;
use crate::plan::asks::ResolvedAccess;
use crate::registry;
use crate::registry::connection::{Renew, exchange_client, http_client};
use crate::registry::login::{self, LoginError};
use crate::registry::retries::OnWait;
use crate::secret::{Login, Masks, Secret};
use crate::tls;
use dockerd::DockerdStart;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};

/// What to do about a login of Docker's configuration that cannot be used.
const LOGIN_HELP: &str = "if the registry requires a login, install the helper and log in again, or correct `credHelpers`, `credsStore` and `auths` in Docker's config.json";

/// The settings of all connections.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) docker: Endpoint,
    /// The value of `AWS_CA_BUNDLE`.
    pub(crate) aws_ca_bundle: Option<PathBuf>,
    pub(crate) in_codebuild: bool,
    /// How long a registry may be silent.
    pub(crate) registry_timeout: Duration,
    /// How long calls of a registry that may succeed later are retried.
    pub(crate) registry_patience: Duration,
    /// The interval at which deployments are polled. By default it grows from one second to five.
    pub(crate) ecs_poll: Option<Duration>,
    /// The value of `PATH`.
    pub(crate) path: OsString,
}

impl Settings {
    /// The trusted certificate authorities. Reading them takes milliseconds, so only commands that need them do.
    pub(crate) fn authorities(&self) -> Vec<Vec<u8>> {
        tls::authorities(self.aws_ca_bundle.as_deref())
    }
}

/// An access to AWS: `aws` of the pipeline file, with every `${…}` resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    /// The region. Without one, that of the environment or the profile is used.
    pub(crate) region: Option<String>,
    /// A role to assume.
    pub(crate) role: Option<String>,
    /// The external id that the role's trust policy requires.
    pub(crate) external_id: Option<String>,
}

impl From<ResolvedAccess> for Access {
    fn from(ResolvedAccess { region, role, external_id }: ResolvedAccess) -> Self {
        Self { region, role, external_id }
    }
}

/// The connections of a run.
#[derive(Clone)]
pub(crate) struct Connections {
    settings: Arc<Settings>,
    mode: Mode,
    masks: Masks,
    docker: Arc<OnceCell<Engine>>,
    /// Starts an engine if there is none; absent before the run has begun.
    dockerd_start: Option<Arc<DockerdStart>>,
    aws: Arc<Mutex<HashMap<Access, Aws>>>,
    /// The session name for roles that are assumed.
    session: Arc<str>,
    docker_config: Arc<OnceCell<Arc<DockerConfig>>>,
    /// ECR's tokens by host. They are valid for hours.
    ecr_logins: Arc<Mutex<HashMap<(Access, String), Login>>>,
}

impl Connections {
    /// The connections of a command that has no pipeline.
    pub(crate) fn alone(settings: &Settings, masks: &Masks) -> Self {
        Self::new(settings.clone(), Mode::Publish, masks.clone(), "runner")
    }

    /// `session` is the session name for roles that are assumed.
    pub(crate) fn new(settings: Settings, mode: Mode, masks: Masks, session: &str) -> Self {
        Self {
            settings: Arc::new(settings),
            mode,
            masks,
            docker: Arc::default(),
            dockerd_start: None,
            aws: Arc::default(),
            session: session.into(),
            docker_config: Arc::default(),
            ecr_logins: Arc::default(),
        }
    }

    /// The same connections in a run, which may start an engine.
    pub(crate) fn starting_dockerd(self, dockerd_start: DockerdStart) -> Self {
        Self { dockerd_start: Some(Arc::new(dockerd_start)), ..self }
    }

    pub(crate) async fn docker(&self) -> Result<&Engine, Failure> {
        let connect = || async {
            let engine = self.connect().await?;
            // Builds and containers may print their proxies.
            for (_, address) in engine.proxies() {
                if let Some(password) = password(address) {
                    self.masks.add(&password);
                }
            }
            Ok(engine)
        };
        self.docker.get_or_try_init(connect).await
    }

    async fn connect(&self) -> Result<Engine, Failure> {
        let endpoint = &self.settings.docker;
        match (Engine::connect(endpoint).await, &self.dockerd_start) {
            (Err(error), Some(dockerd_start)) if self.settings.in_codebuild => {
                let dockerd = daemon::find(error, endpoint, &self.settings.path)?;
                dockerd_start.start(&dockerd).await
            }
            (engine, _) => Ok(engine?),
        }
    }

    /// The AWS clients for an access. No step calls this in local mode.
    pub(crate) async fn aws(&self, access: &Access) -> Result<Aws, Failure> {
        let mut known = self.aws.lock().await;
        if let Some(aws) = known.get(access) {
            return Ok(aws.clone());
        }
        let mut aws =
            Aws::connect(&self.settings.authorities(), access.region.as_deref(), self.settings.ecs_poll)
                .await?;
        if let Some(role) = &access.role {
            aws = aws.assume(role, access.external_id.as_deref(), &self.session).await?;
        }
        known.insert(access.clone(), aws.clone());
        Ok(aws)
    }

    /// The login for a registry that images are pulled from, or why the one that Docker's configuration names cannot be
    /// used: for ECR a token from AWS when publishing, otherwise that of Docker's configuration. ECR Public needs none.
    pub(crate) async fn login(
        &self,
        host: &str,
        access: &Access,
    ) -> Result<Result<Option<Login>, LoginError>, Failure> {
        match EcrRegistry::parse(host) {
            Some(ecr) if self.mode == Mode::Publish => {
                Ok(Ok(Some(self.ecr_login(host, Some(&ecr.region), access).await?)))
            }
            _ => self.docker_login(host).await,
        }
    }

    /// The access to a registry, with its login. `on_wait` reports waits while they last.
    pub(crate) async fn registry(
        &self,
        host: &str,
        access: &Access,
        on_wait: OnWait,
    ) -> Result<registry::connection::RegistryAccess, Failure> {
        let login = self.login(host, access).await?;
        self.registry_with(login, host, access, on_wait)
    }

    /// The access to a registry that images are pushed to. For ECR Public, whose images everyone may pull, the login
    /// comes from AWS if Docker's configuration has none.
    pub(crate) async fn registry_to_push(
        &self,
        host: &str,
        access: &Access,
        on_wait: OnWait,
    ) -> Result<registry::connection::RegistryAccess, Failure> {
        let login = match self.login(host, access).await? {
            Ok(None) | Err(_) if self.gets_public_token(host) => {
                Ok(Some(self.ecr_login(host, None, access).await?))
            }
            login => login,
        };
        self.registry_with(login, host, access, on_wait)
    }

    fn gets_public_token(&self, host: &str) -> bool {
        self.mode == Mode::Publish && is_ecr_public(host)
    }

    /// The access to a registry with a known login. The registry may need none, so it is no failure if there is none.
    pub(crate) fn registry_with(
        &self,
        login: Result<Option<Login>, LoginError>,
        host: &str,
        access: &Access,
        on_wait: OnWait,
    ) -> Result<registry::connection::RegistryAccess, Failure> {
        let has_identity = matches!(&login, Ok(Some(login)) if login.is_identity_token());
        let authorities = self.settings.authorities();
        // Reading certificates takes time, and few registries have identity tokens.
        let exchange = has_identity.then(|| exchange_client(host, authorities.clone())).transpose()?;
        let http = http_client(host, authorities)?;
        let (connections, access, own_host) = (self.clone(), access.clone(), host.to_owned());
        let renew: Renew = Arc::new(move || {
            let (connections, access, host) = (connections.clone(), access.clone(), own_host.clone());
            Box::pin(async move {
                connections.ecr_logins.lock().await.remove(&(access.clone(), host.clone()));
                // Only a push sends a login to ECR Public.
                if connections.gets_public_token(&host) {
                    return connections.ecr_login(&host, None, &access).await.ok();
                }
                connections.login(&host, &access).await.ok()?.ok().flatten()
            })
        });
        let (login, problem) = match login {
            Ok(login) => (login, None),
            Err(error) => (None, Some(error)),
        };
        Ok(registry::connection::RegistryAccess {
            http,
            exchange,
            login,
            problem,
            renew,
            timeout: self.settings.registry_timeout,
            patience: self.settings.registry_patience,
            on_wait,
        })
    }

    /// A token of ECR in this region, or of ECR Public.
    async fn ecr_login(&self, host: &str, region: Option<&str>, access: &Access) -> Result<Login, Failure> {
        let mut logins = self.ecr_logins.lock().await;
        let key = (access.clone(), host.to_owned());
        if let Some(login) = logins.get(&key) {
            return Ok(login.clone());
        }
        let aws = self.aws(access).await?;
        let login = match region {
            Some(region) => aws.in_region(region).ecr_login().await?,
            None => aws.ecr_public_login().await?,
        };
        self.masks.add(&login.password);
        logins.insert(key, login.clone());
        Ok(login)
    }

    /// The login for a registry in Docker's configuration.
    pub(crate) async fn docker_login(
        &self,
        host: &str,
    ) -> Result<Result<Option<Login>, LoginError>, Failure> {
        let read = || async {
            let config = match &self.settings.docker.configuration {
                Some(directory) => DockerConfig::read(directory).map_err(|error| {
                    Failure::caused(Exit::Environment, &error)
                        .help("correct or remove the file; `docker login` creates a new one")
                })?,
                None => None,
            };
            Ok::<_, Failure>(Arc::new(config.unwrap_or_default()))
        };
        let config = self.docker_config.get_or_try_init(read).await?.clone();
        let login = login::login(&config, host).await;
        if let Ok(Some(login)) = &login {
            self.masks.add(&login.password);
        }
        Ok(login)
    }

    /// Masks a secret in everything that runner prints from now on.
    pub(crate) fn mask(&self, secret: &Secret) {
        self.masks.add(secret);
    }

    /// Logins for builds. A build requests one by host name when it pulls a private image.
    pub(crate) fn logins(&self, access: Access) -> BuildLogins {
        let connections = self.clone();
        let failures = Arc::<std::sync::Mutex<LoginFailures>>::default();
        let recorded = failures.clone();
        let logins: Logins = Arc::new(move |host| {
            let (connections, access, recorded) = (connections.clone(), access.clone(), recorded.clone());
            Box::pin(async move {
                let login = connections.login(&host, &access).await;
                let mut failures = recorded.lock().unwrap_or_else(PoisonError::into_inner);
                // The build continues without a login. If it then fails at this registry, this is the cause.
                match login {
                    Ok(Ok(login)) => return login,
                    Ok(Err(problem)) => drop(failures.problems.insert(host, problem)),
                    Err(failure) => drop(failures.failures.insert(host, failure)),
                }
                None
            })
        });
        BuildLogins { logins, failures }
    }
}

/// The password in a URL.
fn password(url: &str) -> Option<Secret> {
    let (_, rest) = url.split_once("://")?;
    let (login, _) = rest.split('/').next()?.rsplit_once('@')?;
    let (_, password) = login.split_once(':')?;
    (!password.is_empty()).then(|| Secret::new(password))
}

/// The logins that failed, by host.
#[derive(Default)]
struct LoginFailures {
    failures: HashMap<String, Failure>,
    /// Logins of Docker's configuration. The registry may need none.
    problems: HashMap<String, LoginError>,
}

/// The logins of builds that run together, and the logins that failed.
pub(crate) struct BuildLogins {
    pub(crate) logins: Logins,
    failures: Arc<std::sync::Mutex<LoginFailures>>,
}

impl BuildLogins {
    /// The failure of a build. If the error names a registry whose login failed, that is the failure.
    pub(crate) fn build_failure(&self, error: DockerError) -> Failure {
        let mut problem = None;
        if let DockerError::Build(text) = &error {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, failure)) =
                failures.failures.iter().find(|(host, _)| text.contains(host.as_str()))
            {
                return failure.clone();
            }
            let of_host = failures.problems.iter().find(|(host, _)| text.contains(host.as_str()));
            problem = of_host.map(|(_, problem)| problem.clone());
        }
        pull_failure(error, problem)
    }
}

/// The failure of a pull or build. `problem` is why it had no login.
pub(crate) fn pull_failure(error: DockerError, problem: Option<LoginError>) -> Failure {
    let failure = Failure::from(error);
    match problem {
        Some(problem) if failure.help.is_none() => failure.help(format!("{problem}; {LOGIN_HELP}")),
        _ => failure,
    }
}
