//! The session that serves a build: health, files, secrets, registry credentials and SSH agents.

use super::filesync::Directories;
use super::ssh::Forward;
use super::{ContextSource, Logins, Share, source};
use crate::docker::DockerError;
use crate::docker::connection::Connection;
use crate::docker::host::Host;
use crate::docker::ignore::Rules;
use crate::random;
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
use bollard_buildkit_proto::moby::sshforward::v1::ssh_server::SshServer;
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// The methods that are announced to BuildKit. `FetchToken` and related methods are omitted on purpose, so that
/// BuildKit falls back to plain credentials.
const METHODS: [&str; 6] = [
    "/grpc.health.v1.Health/Check",
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
];

/// The largest headers of a call, in bytes. They contain the patterns of an ignore file. The same limit as the docker
/// command's.
const MAX_HEADERS: u32 = 16 * 1024 * 1024;

/// An open session. Dropping it closes the connection.
pub(crate) struct BuildSession {
    pub(crate) id: String,
    pub(crate) context: ContextSource,
    pub(crate) directories: Directories,
    _closing: DropGuard,
}

/// Announces a session to the engine and serves it in the background.
pub(crate) async fn open(host: &Host, share: &Share, rules: Rules) -> Result<BuildSession, DockerError> {
    let directories = Directories::new(share, rules);
    let id = random::id();
    let shared_key = shared_key(&share.context);
    let mut headers = vec![
        ("X-Docker-Expose-Session-Uuid", id.as_str()),
        ("X-Docker-Expose-Session-Name", "runner"),
        ("X-Docker-Expose-Session-Sharedkey", shared_key.as_str()),
    ];
    headers.extend(METHODS.map(|method| ("X-Docker-Expose-Session-Grpc-Method", method)));
    let connection = host.upgrade("/session", &headers).await?;
    let router = tonic::transport::Server::builder()
        .http2_max_header_list_size(MAX_HEADERS)
        .add_service(HealthServer::new(Healthy))
        .add_service(FileSyncServer::new(directories.clone()))
        .add_service(AuthServer::new(Credentials { logins: share.logins.clone() }))
        .add_service(SecretsServer::new(SecretStore { secrets: share.secrets.clone() }))
        .add_service(SshServer::new(Forward { agents: share.ssh.clone() }));
    // The server would shut down after the last incoming connection, even while it is in use. So the stream never ends.
    let closing = CancellationToken::new();
    let connection =
        Closing { connection, closed: Box::pin(closing.clone().cancelled_owned()), token: closing.clone() };
    let incoming = stream::once(async { Ok::<_, std::io::Error>(connection) }).chain(stream::pending());
    let closed = closing.clone().cancelled_owned();
    tokio::spawn(async move {
        // The engine closes the connection when the build has finished.
        let _ = router.serve_with_incoming_shutdown(incoming, closed).await;
    });
    Ok(BuildSession { id, context: share.context.clone(), directories, _closing: closing.drop_guard() })
}

/// Returns the key of earlier transfers with the same source, so that BuildKit requests only changed files.
fn shared_key(context: &ContextSource) -> String {
    source::digest(format!("runner:{context:?}").as_bytes())
}

/// A connection that closes with the session. The server alone would wait for open calls of the engine and keep secrets
/// and logins in memory until then.
struct Closing {
    connection: Connection,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    token: CancellationToken,
}

impl Connected for Closing {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Closing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl AsyncWrite for Closing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.token.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
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
        // Without a login BuildKit accesses the registry anonymously.
        Ok(Response::new(login.map_or_else(CredentialsResponse::default, |login| CredentialsResponse {
            // The docker command passes identity tokens in the same way.
            username: if login.is_identity_token() { String::new() } else { login.user },
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
