//! Connections to Docker, AWS and registries, opened when a step first needs them.

pub(crate) mod dockerd;
pub(crate) mod failure;

use crate::address::EcrRegistry;
use crate::aws::Aws;
use crate::docker::host::Endpoint;
use crate::docker::solver::Logins;
use crate::docker::{DockerError, Engine, daemon};
use crate::docker_config::DockerConfig;
use crate::exit::{Exit, Failure};
use crate::plan::Mode;
use crate::registry;
use crate::registry::connection::Renew;
use crate::registry::login;
use crate::secret::{Login, Masks, Secret};
use crate::tls;
use dockerd::DockerdStart;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};

/// The settings of all connections.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) docker: Endpoint,
    /// The value of `AWS_CA_BUNDLE`.
    pub(crate) aws_ca_bundle: Option<PathBuf>,
    pub(crate) in_codebuild: bool,
    /// How long a registry may be silent.
    pub(crate) registry_timeout: Duration,
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
        self.docker.get_or_try_init(|| self.connect()).await
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

    /// The login for a registry: for ECR a token from AWS when publishing, otherwise that of Docker's configuration.
    pub(crate) async fn login(&self, host: &str, access: &Access) -> Result<Option<Login>, Failure> {
        match EcrRegistry::parse(host) {
            Some(ecr) if self.mode == Mode::Publish => {
                let login = self.ecr_login(host, &ecr.region, access).await?;
                self.masks.add(&login.password);
                Ok(Some(login))
            }
            _ => self.docker_login(host).await,
        }
    }

    /// The access to a registry, with its login.
    pub(crate) async fn registry(
        &self,
        host: &str,
        access: &Access,
    ) -> Result<registry::connection::RegistryAccess, Failure> {
        let login = self.login(host, access).await?;
        self.registry_with(login, host, access)
    }

    /// The access to a registry with a known login.
    pub(crate) fn registry_with(
        &self,
        login: Option<Login>,
        host: &str,
        access: &Access,
    ) -> Result<registry::connection::RegistryAccess, Failure> {
        let http = registry::connection::http_client(host, self.settings.authorities())?;
        let (connections, access, own_host) = (self.clone(), access.clone(), host.to_owned());
        let renew: Renew = Arc::new(move || {
            let (connections, access, host) = (connections.clone(), access.clone(), own_host.clone());
            Box::pin(async move {
                connections.ecr_logins.lock().await.remove(&(access.clone(), host.clone()));
                connections.login(&host, &access).await.ok().flatten()
            })
        });
        Ok(registry::connection::RegistryAccess {
            http,
            login,
            renew,
            timeout: self.settings.registry_timeout,
        })
    }

    async fn ecr_login(&self, host: &str, region: &str, access: &Access) -> Result<Login, Failure> {
        let mut logins = self.ecr_logins.lock().await;
        let key = (access.clone(), host.to_owned());
        if let Some(login) = logins.get(&key) {
            return Ok(login.clone());
        }
        let login = self.aws(access).await?.in_region(region).ecr_login().await?;
        logins.insert(key, login.clone());
        Ok(login)
    }

    /// The login for a registry in Docker's configuration.
    pub(crate) async fn docker_login(&self, host: &str) -> Result<Option<Login>, Failure> {
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
        let host = host.to_owned();
        // A credential helper is another program, which may take long.
        let login = tokio::task::spawn_blocking(move || login::login(&config, &host)).await.ok().flatten();
        if let Some(login) = &login {
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
        let failures = Arc::<std::sync::Mutex<HashMap<String, Failure>>>::default();
        let recorded = failures.clone();
        let logins: Logins = Arc::new(move |host| {
            let (connections, access, recorded) = (connections.clone(), access.clone(), recorded.clone());
            Box::pin(async move {
                match connections.login(&host, &access).await {
                    Ok(login) => login,
                    Err(failure) => {
                        // The build continues without a login. If it then fails at this registry, this is the cause.
                        recorded.lock().unwrap_or_else(PoisonError::into_inner).insert(host, failure);
                        None
                    }
                }
            })
        });
        BuildLogins { logins, failures }
    }
}

/// The logins of builds that run together, and the logins that failed.
pub(crate) struct BuildLogins {
    pub(crate) logins: Logins,
    failures: Arc<std::sync::Mutex<HashMap<String, Failure>>>,
}

impl BuildLogins {
    /// The failure of a build. If the error names a registry whose login failed, that is the failure.
    pub(crate) fn build_failure(&self, error: DockerError) -> Failure {
        if let DockerError::Build(text) = &error {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, failure)) = failures.iter().find(|(host, _)| text.contains(host.as_str())) {
                return failure.clone();
            }
        }
        error.into()
    }
}
