//! SSH agents for `RUN --mount=type=ssh`: one that runs on this machine, or runner itself with a key file. In both cases the
//! build gets signatures and no key.

use super::agent::AgentKey;
use crate::docker::DockerError;
use bollard_buildkit_proto::moby::sshforward::v1::ssh_server::Ssh;
use bollard_buildkit_proto::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use ssh_key::PrivateKey;
use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How much one message carries, in bytes.
const CHUNK: usize = 32 * 1024;
/// The id of an agent if the Dockerfile names none.
const DEFAULT_ID: &str = "default";

/// An agent that holds keys for a build.
#[derive(Clone)]
pub(crate) enum SshAgent {
    /// The socket of an agent that runs on this machine.
    Socket(PathBuf),
    /// A key for which runner is the agent.
    Key(Arc<AgentKey>),
}

impl SshAgent {
    /// An agent's socket, or the file of a private key.
    pub(crate) fn at(path: &Path) -> Result<Self, DockerError> {
        let failed = |reason: String| DockerError::Ssh(format!("{}: {reason}", path.display()));
        let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        if metadata.file_type().is_socket() {
            return Ok(Self::Socket(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let key = PrivateKey::from_openssh(&text).map_err(|_| {
            failed(
                "is no private key in OpenSSH's form (`ssh-keygen -p -f KEY` converts older forms)"
                    .to_owned(),
            )
        })?;
        if key.is_encrypted() {
            return Err(failed("has a passphrase; give it to an ssh-agent, and write `default`".to_owned()));
        }
        let key = AgentKey::new(&key).ok_or_else(|| {
            failed("cannot sign: use a key of type Ed25519, ECDSA or RSA (at least 2048 bits)".to_owned())
        })?;
        Ok(Self::Key(Arc::new(key)))
    }
}

/// The service that connects a build to an agent by its id.
pub(crate) struct Forward {
    pub(crate) agents: HashMap<String, SshAgent>,
}

impl Forward {
    fn agent(&self, id: &str) -> Result<SshAgent, Status> {
        let id = if id.is_empty() { DEFAULT_ID } else { id };
        self.agents.get(id).cloned().ok_or_else(|| {
            Status::not_found(format!("the image's `ssh` in the pipeline file does not name {id}"))
        })
    }
}

#[tonic::async_trait]
impl Ssh for Forward {
    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    type ForwardAgentStream = ReceiverStream<Result<BytesMessage, Status>>;

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request.metadata().get("buildkit.ssh.id").and_then(|id| id.to_str().ok());
        let agent = self.agent(id.unwrap_or_default())?;
        let (sender, receiver) = mpsc::channel(4);
        match agent {
            SshAgent::Socket(path) => {
                let agent = UnixStream::connect(&path).await;
                let agent =
                    agent.map_err(|error| Status::unavailable(format!("{}: {error}", path.display())))?;
                tokio::spawn(pump(agent, request.into_inner(), sender));
            }
            SshAgent::Key(key) => {
                let (agent, ours) = tokio::io::duplex(CHUNK);
                tokio::spawn(async move { key.serve(ours).await });
                tokio::spawn(pump(agent, request.into_inner(), sender));
            }
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Copies bytes between an agent and the build until one of them closes the connection.
async fn pump(
    agent: impl AsyncRead + AsyncWrite,
    mut incoming: Streaming<BytesMessage>,
    outgoing: mpsc::Sender<Result<BytesMessage, Status>>,
) {
    let (mut from, mut to) = tokio::io::split(agent);
    let ask = async {
        while let Ok(Some(message)) = incoming.message().await {
            if to.write_all(&message.data).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let answer = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let message = BytesMessage { data: buffer[..length].to_vec() };
            if outgoing.send(Ok(message)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(ask, answer) } => {}
        () = outgoing.closed() => {}
    }
}
