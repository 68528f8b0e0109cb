//! Connections to what is outside, made when the first step needs them.

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
use dockerd::Surroundings;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};

/// What connections are made with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where the Docker Engine is.
    pub(crate) docker: Endpoint,
    /// The value of `AWS_CA_BUNDLE`.
    pub(crate) aws_ca_bundle: Option<PathBuf>,
    pub(crate) in_codebuild: bool,
    /// How long a registry may be silent.
    pub(crate) registry_patience: Duration,
    /// How often a deployment is looked at; from every second at first to every five where it is not said.
    pub(crate) ecs_poll: Option<Duration>,
    /// The value of `PATH`.
    pub(crate) path: OsString,
}

impl Settings {
    /// The certificate authorities that are trusted. Reading them takes milliseconds, so it is done where they are needed.
    pub(crate) fn authorities(&self) -> Vec<Vec<u8>> {
        tls::authorities(self.aws_ca_bundle.as_deref())
    }
}

/// An access to AWS: `aws` of the pipeline file, with values in the place of `${…}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    /// The region; the environment's or the profile's where absent.
    pub(crate) region: Option<String>,
    /// A role to assume.
    pub(crate) role: Option<String>,
    /// What the role's trust policy asks for.
    pub(crate) external_id: Option<String>,
}

/// The connections of a run.
#[derive(Clone)]
pub(crate) struct Connections {
    settings: Arc<Settings>,
    mode: Mode,
    masks: Masks,
    docker: Arc<OnceCell<Engine>>,
    /// Nothing before the run has begun.
    surroundings: Option<Arc<Surroundings>>,
    aws: Arc<Mutex<HashMap<Access, Aws>>>,
    /// What sessions of roles are called.
    session: Arc<str>,
    docker_config: Arc<OnceCell<Arc<DockerConfig>>>,
    /// ECR's tokens by host; they are good for hours.
    ecr_logins: Arc<Mutex<HashMap<(Access, String), Login>>>,
}

impl Connections {
    /// The connections of a command that has no pipeline.
    pub(crate) fn alone(settings: &Settings, masks: &Masks) -> Self {
        Self::new(settings.clone(), Mode::Publish, masks.clone(), "runner")
    }

    /// `session` names the sessions of roles that are assumed.
    pub(crate) fn new(settings: Settings, mode: Mode, masks: Masks, session: &str) -> Self {
        Self {
            settings: Arc::new(settings),
            mode,
            masks,
            docker: Arc::default(),
            surroundings: None,
            aws: Arc::default(),
            session: session.into(),
            docker_config: Arc::default(),
            ecr_logins: Arc::default(),
        }
    }

    /// The same in a run under way, where an engine can be started.
    pub(crate) fn within(self, surroundings: Surroundings) -> Self {
        Self { surroundings: Some(Arc::new(surroundings)), ..self }
    }

    pub(crate) async fn docker(&self) -> Result<&Engine, Failure> {
        self.docker.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Engine, Failure> {
        let endpoint = &self.settings.docker;
        match (Engine::connect(endpoint).await, &self.surroundings) {
            (Err(error), Some(surroundings)) if self.settings.in_codebuild => {
                let dockerd = daemon::find(error, endpoint, &self.settings.path)?;
                surroundings.start(&dockerd).await
            }
            (engine, _) => Ok(engine?),
        }
    }

    /// AWS. In local mode there is no step that may ask for it.
    pub(crate) async fn aws(&self, access: &Access) -> Result<Aws, Failure> {
        let mut known = self.aws.lock().await;
        if let Some(aws) = known.get(access) {
            return Ok(aws.clone());
        }
        let mut aws = Aws::connect(&self.settings.authorities(), access.region.as_deref()).await?;
        if let Some(role) = &access.role {
            aws = aws.assume(role, access.external_id.as_deref(), &self.session).await?;
        }
        known.insert(access.clone(), aws.clone());
        Ok(aws)
    }

    /// The login for a registry: ECR's own token where AWS may be asked, Docker's configuration otherwise.
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

    /// How a registry is spoken to.
    pub(crate) async fn registry(
        &self,
        host: &str,
        access: &Access,
    ) -> Result<registry::connection::RegistryAccess, Failure> {
        let login = self.login(host, access).await?;
        self.registry_with(login, host, access)
    }

    /// The same with a login that is known.
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
            timeout: self.settings.registry_patience,
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
                        .help("mend or remove the file; `docker login` writes it anew")
                })?,
                None => None,
            };
            Ok::<_, Failure>(Arc::new(config.unwrap_or_default()))
        };
        let config = self.docker_config.get_or_try_init(read).await?.clone();
        let host = host.to_owned();
        // A credential helper is another program, which may take its time.
        let login = tokio::task::spawn_blocking(move || login::login(&config, &host)).await.ok().flatten();
        if let Some(login) = &login {
            self.masks.add(&login.password);
        }
        Ok(login)
    }

    /// Keeps a secret out of everything that people see.
    pub(crate) fn mask(&self, secret: &Secret) {
        self.masks.add(secret);
    }

    /// Logins for a build, which asks for them by host name when it comes to a private image.
    pub(crate) fn logins(&self, access: Access) -> BuildLogins {
        let connections = self.clone();
        let failures = Arc::<std::sync::Mutex<HashMap<String, Failure>>>::default();
        let noted = failures.clone();
        let logins: Logins = Arc::new(move |host| {
            let (connections, access, noted) = (connections.clone(), access.clone(), noted.clone());
            Box::pin(async move {
                match connections.login(&host, &access).await {
                    Ok(login) => login,
                    Err(failure) => {
                        // The build goes on without; if it fails at this registry, this is why.
                        noted.lock().unwrap_or_else(PoisonError::into_inner).insert(host, failure);
                        None
                    }
                }
            })
        });
        BuildLogins { logins, failures }
    }
}

/// The logins of builds that are made together.
pub(crate) struct BuildLogins {
    pub(crate) logins: Logins,
    failures: Arc<std::sync::Mutex<HashMap<String, Failure>>>,
}

impl BuildLogins {
    /// Why a build failed: for want of a login, where its words are about a registry whose login could not be had.
    pub(crate) fn explain(&self, error: DockerError) -> Failure {
        if let DockerError::Build(text) = &error {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, failure)) = failures.iter().find(|(host, _)| text.contains(host.as_str())) {
                return failure.clone();
            }
        }
        error.into()
    }
}
