//! What runner serves to a build: health, files, secrets and registry credentials.

use super::filesync::Directories;
use super::{Build, Logins};
use crate::docker::DockerError;
use crate::docker::host::{Connection, Host};
use crate::secret::Secret;
use bollard_buildkit_proto::health::health_check_response::ServingStatus;
use bollard_buildkit_proto::health::health_server::{Health, HealthServer};
use bollard_buildkit_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server::{Secrets, SecretsServer};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::filesync::v1::auth_server::{Auth, AuthServer};
use bollard_buildkit_proto::moby::filesync::v1::file_sync_server::FileSyncServer;
use bollard_buildkit_proto::moby::filesync::v1::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

/// The methods that BuildKit may call, as it wants them announced. `FetchToken` and its relatives are left out on purpose:
/// BuildKit then falls back to plain credentials.
const METHODS: [&str; 4] = [
    "/grpc.health.v1.Health/Check",
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
];

/// An open session. Dropping it closes the connection.
pub(super) struct Session {
    pub(super) id: String,
    _closing: DropGuard,
}

/// Announces a session to the engine and serves it in the background.
pub(super) async fn open(
    host: &Host,
    build: &Build,
    directories: Directories,
) -> Result<Session, DockerError> {
    let id = random_id();
    let shared_key = shared_key(build);
    let mut headers = vec![
        ("X-Docker-Expose-Session-Uuid", id.as_str()),
        ("X-Docker-Expose-Session-Name", "runner"),
        ("X-Docker-Expose-Session-Sharedkey", shared_key.as_str()),
    ];
    headers.extend(METHODS.map(|method| ("X-Docker-Expose-Session-Grpc-Method", method)));
    let connection = host.upgrade("/session", &headers).await?;
    let router = tonic::transport::Server::builder()
        .add_service(HealthServer::new(Healthy))
        .add_service(FileSyncServer::new(directories))
        .add_service(AuthServer::new(Credentials { logins: build.logins.clone() }))
        .add_service(SecretsServer::new(SecretStore { secrets: build.secrets.clone() }));
    // The server stops when nothing more can come in, even while the one connection is in use: the tail never ends.
    let incoming =
        stream::once(async { Ok::<Connection, std::io::Error>(connection) }).chain(stream::pending());
    let closing = CancellationToken::new();
    let closed = closing.clone().cancelled_owned();
    tokio::spawn(async move {
        // The engine closes the connection when the build is through.
        let _ = router.serve_with_incoming_shutdown(incoming, closed).await;
    });
    Ok(Session { id, _closing: closing.drop_guard() })
}

/// A fresh identifier of 25 letters and digits, as BuildKit's own are.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 16];
    // Without randomness there is no TLS either; time and process are unique enough for an id.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        let now = jiff::Timestamp::now().as_nanosecond();
        bytes = (now ^ i128::from(std::process::id())).to_le_bytes();
    }
    bytes.iter().map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz012345"[usize::from(byte % 32)])).collect()
}

/// Says which earlier transfer this one resembles, so that BuildKit asks only for changed files.
fn shared_key(build: &Build) -> String {
    // The Dockerfile belongs to it: its directory is transferred under the same key.
    let path = format!("runner:{}:{}", build.context.display(), build.dockerfile.display());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, path.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Healthy;

#[tonic::async_trait]
impl Health for Healthy {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }

    type WatchStream = stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

struct SecretStore {
    secrets: HashMap<String, Secret>,
}

#[tonic::async_trait]
impl Secrets for SecretStore {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match self.secrets.get(&id) {
            Some(secret) => {
                Ok(Response::new(GetSecretResponse { data: secret.expose().as_bytes().to_vec() }))
            }
            None => {
                Err(Status::not_found(format!("the image's `secrets` in the pipeline file do not name {id}")))
            }
        }
    }
}

struct Credentials {
    logins: Logins,
}

#[tonic::async_trait]
impl Auth for Credentials {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let login = (self.logins)(request.into_inner().host).await;
        // Without a login the registry is asked anonymously.
        Ok(Response::new(login.map_or_else(CredentialsResponse::default, |login| CredentialsResponse {
            username: login.user,
            secret: login.password.expose().to_owned(),
        })))
    }

    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented("fetch token"))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("token authority"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("token authority"))
    }
}
