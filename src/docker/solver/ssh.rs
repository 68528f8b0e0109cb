//! SSH agents for `RUN --mount=type=ssh`: a running agent of this machine, or a key for which runner acts as the agent.
//! In both cases no key is sent to the engine.

use crate::docker::DockerError;
use bollard_buildkit_proto::moby::sshforward::v1::ssh_server::Ssh;
use bollard_buildkit_proto::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use futures_util::{SinkExt, StreamExt};
use rsa::pkcs1v15::SigningKey;

use bytes::BytesMut;
use rsa::sha2::{Sha256, Sha512};
use rsa::signature::{SignatureEncoding, Signer};
use ssh_agent_lib::codec::Codec;
use ssh_agent_lib::error::AgentError;
use ssh_agent_lib::proto::signature::{RSA_SHA2_256, RSA_SHA2_512};
use ssh_agent_lib::proto::{Identity, Request as AgentRequest, Response as AgentResponse, SignRequest};
use ssh_key::private::{KeypairData, RsaKeypair};
use ssh_key::{Algorithm, HashAlg, PrivateKey, Signature};
use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::codec::{Decoder, Encoder, Framed};
use tonic::{Request, Response, Status, Streaming};

/// The size of the data in one message, in bytes.
const CHUNK: usize = 32 * 1024;
/// The longest message that is accepted from a build, in bytes. The same limit as OpenSSH's.
const MAX_MESSAGE: u32 = 256 * 1024;
/// The default id of an agent.
const DEFAULT_ID: &str = "default";

/// A source of signatures.
#[derive(Clone)]
pub(crate) enum SshAgent {
    /// The socket of a running agent.
    Socket(PathBuf),
    /// A private key for which runner acts as the agent.
    Key(Arc<PrivateKey>),
}

impl SshAgent {
    /// Opens the socket of an agent or the file of a private key.
    pub(crate) fn open(path: &Path) -> Result<Self, DockerError> {
        let failed = |reason: String| DockerError::Ssh(format!("{}: {reason}", path.display()));
        let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        if metadata.file_type().is_socket() {
            return Ok(Self::Socket(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let key = PrivateKey::from_openssh(&text).map_err(|_| {
            failed(
                "is not a private key in OpenSSH's format (`ssh-keygen -p -f KEY` converts an older format)"
                    .to_owned(),
            )
        })?;
        if key.is_encrypted() {
            return Err(failed("has a passphrase; add it to an ssh-agent, and write `default`".to_owned()));
        }
        Ok(Self::Key(Arc::new(key)))
    }
}

/// The service that connects a build to agents, by id.
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
                tokio::spawn(serve(ours, key));
                tokio::spawn(pump(agent, request.into_inner(), sender));
            }
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Copies bytes between an agent and the build until one of them closes.
async fn pump(
    agent: impl AsyncRead + AsyncWrite,
    mut incoming: Streaming<BytesMessage>,
    outgoing: mpsc::Sender<Result<BytesMessage, Status>>,
) {
    let (mut from, mut to) = tokio::io::split(agent);
    let requests = async {
        while let Ok(Some(message)) = incoming.message().await {
            if to.write_all(&message.data).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let responses = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let message = BytesMessage { data: buffer[..length].to_vec() };
            if outgoing.send(Ok(message)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(requests, responses) } => {}
        () = outgoing.closed() => {}
    }
}

/// Acts as an agent with one key. The key can be listed and used, but not exported or changed.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, key: Arc<PrivateKey>) {
    let mut requests = Framed::new(stream, Bounded(Codec::default()));
    while let Some(Ok(request)) = requests.next().await {
        let response = match request {
            AgentRequest::RequestIdentities => AgentResponse::IdentitiesAnswer(vec![Identity {
                credential: key.public_key().key_data().clone().into(),
                comment: key.comment().to_owned(),
            }]),
            AgentRequest::SignRequest(request) => {
                sign(&key, &request).map_or(AgentResponse::Failure, AgentResponse::SignResponse)
            }
            AgentRequest::Extension(_) => AgentResponse::ExtensionFailure,
            _ => AgentResponse::Failure,
        };
        if requests.send(response).await.is_err() {
            return;
        }
    }
}

/// The codec of the agent protocol, limited to [`MAX_MESSAGE`].
struct Bounded(Codec<AgentRequest, AgentResponse>);

impl Decoder for Bounded {
    type Item = AgentRequest;
    type Error = AgentError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<AgentRequest>, AgentError> {
        let length = bytes.first_chunk().map(|length| u32::from_be_bytes(*length));
        if length.is_some_and(|length| length > MAX_MESSAGE) {
            return Err(AgentError::Failure);
        }
        self.0.decode(bytes)
    }
}

impl Encoder<AgentResponse> for Bounded {
    type Error = AgentError;

    fn encode(&mut self, response: AgentResponse, bytes: &mut BytesMut) -> Result<(), AgentError> {
        self.0.encode(response, bytes)
    }
}

fn sign(key: &PrivateKey, request: &SignRequest) -> Option<Signature> {
    if request.credential.key_data() != key.public_key().key_data() {
        return None;
    }
    match key.key_data() {
        KeypairData::Rsa(pair) => sign_rsa(pair, &request.data, request.flags),
        _ => key.try_sign(&request.data).ok(),
    }
}

/// Signs with the hash that the flags select. Without flags that is SHA-1, which is refused: servers have rejected it
/// since OpenSSH 8.8.
fn sign_rsa(pair: &RsaKeypair, data: &[u8], flags: u32) -> Option<Signature> {
    let number = |number: &ssh_key::Mpint| rsa::BigUint::try_from(number).ok();
    let primes = vec![number(&pair.private.p)?, number(&pair.private.q)?];
    let (n, e, d) = (number(&pair.public.n)?, number(&pair.public.e)?, number(&pair.private.d)?);
    let key = rsa::RsaPrivateKey::from_components(n, e, d, primes).ok()?;
    let (hash, signature) = if flags & RSA_SHA2_512 != 0 {
        (HashAlg::Sha512, SigningKey::<Sha512>::new(key).try_sign(data).ok()?.to_vec())
    } else if flags & RSA_SHA2_256 != 0 {
        (HashAlg::Sha256, SigningKey::<Sha256>::new(key).try_sign(data).ok()?.to_vec())
    } else {
        return None;
    };
    Signature::new(Algorithm::Rsa { hash: Some(hash) }, signature).ok()
}
