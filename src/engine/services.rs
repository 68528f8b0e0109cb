//! Connections to what is outside, made when the first step needs them.

use super::Job;
use crate::aws::Aws;
use crate::aws::ecr::EcrHost;
use crate::docker::Engine;
use crate::docker::solver::Logins;
use crate::exit::Failure;
use crate::plan::Mode;
use crate::registry::login::DockerConfig;
use crate::secret::{Login, Masks};
use crate::tls;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Mutex, OnceCell};

/// What connections are made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The value of `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// Docker's configuration file, with logins.
    pub docker_config: Option<PathBuf>,
    /// The value of `AWS_CA_BUNDLE`.
    pub aws_ca_bundle: Option<PathBuf>,
}

impl Settings {
    /// The certificate authorities that are trusted. Reading them takes milliseconds, so it is done where they are needed.
    pub fn authorities(&self) -> Vec<Vec<u8>> {
        tls::authorities(self.aws_ca_bundle.as_deref())
    }
}

/// The connections of a run.
#[derive(Clone)]
pub(super) struct Services {
    settings: Arc<Settings>,
    mode: Mode,
    masks: Masks,
    docker: Arc<OnceCell<Engine>>,
    aws: Arc<OnceCell<Aws>>,
    docker_config: Arc<OnceCell<Arc<DockerConfig>>>,
    /// ECR's tokens by host; they are good for hours.
    ecr_logins: Arc<Mutex<HashMap<String, Login>>>,
    /// Why a build got no login that it asked for.
    login_failure: Arc<Mutex<Option<Failure>>>,
}

impl Services {
    pub(super) fn new(job: &Job) -> Self {
        Self {
            settings: Arc::new(job.settings.clone()),
            mode: job.mode,
            masks: job.masks.clone(),
            docker: Arc::default(),
            aws: Arc::default(),
            docker_config: Arc::default(),
            ecr_logins: Arc::default(),
            login_failure: Arc::default(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The Docker Engine.
    pub(super) async fn docker(&self) -> Result<&Engine, Failure> {
        let host = self.settings.docker_host.as_deref();
        let connect = || async { Ok(Engine::connect(host).await?) };
        self.docker.get_or_try_init(connect).await
    }

    /// AWS. In local mode there is no step that may ask for it.
    pub(super) async fn aws(&self) -> Result<&Aws, Failure> {
        let connect = || async { Ok(Aws::connect(&self.settings.authorities()).await?) };
        self.aws.get_or_try_init(connect).await
    }

    /// The login for a registry: ECR's own token where AWS may be asked, Docker's configuration otherwise.
    pub(super) async fn login(&self, host: &str) -> Result<Option<Login>, Failure> {
        let login = match EcrHost::parse(host) {
            Some(ecr) if self.mode == Mode::Publish => Some(self.ecr_login(host, &ecr.region).await?),
            _ => self.docker_login(host).await?,
        };
        if let Some(login) = &login {
            self.masks.add(&login.password);
        }
        Ok(login)
    }

    async fn ecr_login(&self, host: &str, region: &str) -> Result<Login, Failure> {
        let mut logins = self.ecr_logins.lock().await;
        if let Some(login) = logins.get(host) {
            return Ok(login.clone());
        }
        let login = self.aws().await?.in_region(region).ecr_login().await?;
        logins.insert(host.to_owned(), login.clone());
        Ok(login)
    }

    /// Why the last build got no login that it asked for, where that is so.
    pub(super) async fn take_login_failure(&self) -> Option<Failure> {
        self.login_failure.lock().await.take()
    }

    async fn docker_login(&self, host: &str) -> Result<Option<Login>, Failure> {
        let read = || async {
            let config = match &self.settings.docker_config {
                Some(path) => DockerConfig::read(path).map_err(|error| {
                    Failure::environment(error).help("mend or remove the file; `docker login` writes it anew")
                })?,
                None => DockerConfig::default(),
            };
            Ok::<_, Failure>(Arc::new(config))
        };
        let config = self.docker_config.get_or_try_init(read).await?.clone();
        let host = host.to_owned();
        // A credential helper is another program, which may take its time.
        let login = tokio::task::spawn_blocking(move || config.login(&host)).await;
        Ok(login.ok().flatten())
    }

    /// Logins for a build, which asks for them by host name when it comes to a private image.
    pub(super) fn logins(&self) -> Logins {
        let services = self.clone();
        Arc::new(move |host| {
            let services = services.clone();
            Box::pin(async move {
                match services.login(&host).await {
                    Ok(login) => login,
                    Err(failure) => {
                        // The build goes on without; if it fails, this is why.
                        *services.login_failure.lock().await = Some(failure);
                        None
                    }
                }
            })
        })
    }
}
