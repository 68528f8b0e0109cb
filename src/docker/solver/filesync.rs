//! The file sync service: sends the directories of a build as BuildKit requests them.

use super::Share;
use super::dockerfile::Dockerfile;
use crate::docker::context::{self, ContextError, Selection};
use crate::docker::ignore::{IgnoreFile, Rules};
use crate::docker::sizes::Sizes;
use crate::secret::Masks;
use crate::text::human_size;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use bollard_buildkit_proto::moby::filesync::v1::file_sync_server::FileSync;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// How many files are read in parallel. Opening them takes most of the time.
const READERS: usize = 4;
/// The size of the data in one packet, in bytes.
const CHUNK: usize = 64 * 1024;
/// The minimum size of a read, in bytes: a file may have grown.
const MIN_READ: usize = 512;
/// How many batches may wait for the connection. Together with [`CHUNK`] and [`READERS`] this bounds the memory of a
/// transfer.
const WAITING: usize = 4;
/// A batch is sent once it has this many packets or bytes. Sending packets one by one would take longer than creating
/// them.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 16 * 1024;

/// The prefix of the names of directories with Dockerfiles, which is followed by a number.
const DOCKERFILE: &str = "dockerfile-";
/// The same for the directories of named contexts.
const NAMED: &str = "context-";
/// Contexts above this size cause a warning, in bytes.
const LARGE: u64 = 200_000_000;
/// How many files with a secret are named.
const NAMED_FILES: usize = 3;
/// How many files or directories the warning names.
const LARGEST_ENTRIES: usize = 3;

/// The directories of a session's builds. Clones share them.
#[derive(Clone)]
pub(crate) struct Directories {
    context: Option<PathBuf>,
    rules: Rules,
    /// The Dockerfiles of the builds. The index is the number of the directory.
    dockerfiles: Arc<Mutex<Vec<Arc<Dockerfile>>>>,
    /// The directories of named contexts. The index is the number of the directory.
    named_contexts: Arc<Mutex<Vec<PathBuf>>>,
    /// The first error of reading the context, for the message to the user.
    failure: Arc<Mutex<Option<Arc<ContextError>>>>,
    /// Receives problems that do not fail the build.
    warnings: mpsc::Sender<String>,
    /// The secrets that no file should contain.
    masks: Masks,
    /// How many files with a secret were named.
    named: Arc<AtomicUsize>,
}

impl Directories {
    pub(crate) fn new(share: &Share, rules: Rules) -> Self {
        Self {
            context: share.context.directory().map(Path::to_owned),
            rules,
            dockerfiles: Arc::default(),
            named_contexts: Arc::default(),
            failure: Arc::default(),
            warnings: share.warnings.clone(),
            masks: share.masks.clone(),
            named: Arc::default(),
        }
    }

    /// Adds a Dockerfile. Returns the name of its directory.
    pub(crate) fn add(&self, dockerfile: Arc<Dockerfile>) -> String {
        let mut dockerfiles = lock(&self.dockerfiles);
        dockerfiles.push(dockerfile);
        format!("{DOCKERFILE}{}", dockerfiles.len() - 1)
    }

    /// Adds the directory of a named context. Returns its name in the session.
    pub(crate) fn add_context(&self, path: &Path) -> String {
        let mut contexts = lock(&self.named_contexts);
        let known = contexts.iter().position(|known| known == path);
        let number = known.unwrap_or_else(|| {
            contexts.push(path.to_owned());
            contexts.len() - 1
        });
        format!("{NAMED}{number}")
    }

    /// Returns the directory of the context or of a named context.
    fn context(&self, directory: &str) -> Option<PathBuf> {
        if directory == "context" {
            return self.context.clone();
        }
        let number: usize = directory.strip_prefix(NAMED)?.parse().ok()?;
        lock(&self.named_contexts).get(number).cloned()
    }

    /// Returns the Dockerfile in a directory.
    fn dockerfile(&self, directory: &str) -> Option<Arc<Dockerfile>> {
        let number: usize = directory.strip_prefix(DOCKERFILE)?.parse().ok()?;
        lock(&self.dockerfiles).get(number).cloned()
    }

    /// Returns the first error of reading the context.
    pub(crate) fn failure(&self) -> Option<Arc<ContextError>> {
        lock(&self.failure).clone()
    }

    /// Adds the file and line to an error about a pattern.
    fn placed(&self, error: ContextError, root: &Path) -> ContextError {
        let dockerfiles = lock(&self.dockerfiles).clone();
        dockerfiles.iter().fold(error, |error, dockerfile| {
            error.placed(|| IgnoreFile::read(Some(dockerfile.path()), root).unwrap_or_default())
        })
    }

    /// Warns about a file with a secret. Its content may become part of an image.
    fn warn_about_secret(&self, path: &str) {
        if self.named.fetch_add(1, Ordering::Relaxed) < NAMED_FILES {
            let warning = format!(
                "{path} in the build context contains a secret, which may become part of the image; exclude it in `.dockerignore`, and give the secret to the build with `secrets`"
            );
            let _ = self.warnings.blocking_send(warning);
        }
    }

    /// Warns about a large context, which takes long to send.
    fn warn_if_large(&self, sizes: &Sizes) {
        if sizes.bytes > LARGE {
            let entry = |(path, size): (&str, u64)| format!("{path} ({})", human_size(size));
            let entries: Vec<String> =
                sizes.largest_entries(LARGEST_ENTRIES).into_iter().map(entry).collect();
            let warning = format!(
                "the build context has {} in {} files, most of it in {}; exclude what the build does not need in `.dockerignore`, `runner image context DIR --size` shows more",
                human_size(sizes.bytes),
                sizes.files,
                entries.join(", ")
            );
            let _ = self.warnings.blocking_send(warning);
        }
    }
}

#[tonic::async_trait]
impl FileSync for Directories {
    type DiffCopyStream = BoxStream<'static, Result<Packet, Status>>;
    type TarStreamStream = stream::Empty<Result<Packet, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let metadata = request.metadata();
        let name = values(metadata, "dir-name").first().cloned().unwrap_or_default();
        let selection = Selection {
            exclude: values(metadata, "exclude-patterns"),
            include: values(metadata, "include-patterns"),
            follow: values(metadata, "followpaths"),
            rules: self.rules,
        };
        let (batches, receiver) = mpsc::channel(WAITING);
        let (wanted, requests) = mpsc::unbounded_channel();
        tokio::spawn(read_requests(request.into_inner(), wanted, batches.clone()));
        match (self.context(&name), self.dockerfile(&name)) {
            (Some(root), _) => {
                let transfer = Arc::new(DirectoryTransfer {
                    root,
                    directories: self.clone(),
                    batches,
                    files: Mutex::default(),
                    requests: Mutex::new(requests),
                });
                for _ in 0..READERS {
                    let transfer = transfer.clone();
                    tokio::task::spawn_blocking(move || transfer.read());
                }
                tokio::task::spawn_blocking(move || transfer.walk(&selection));
            }
            (_, Some(dockerfile)) => {
                tokio::spawn(send_small(dockerfile.files(), batches, requests));
            }
            _ => return Err(Status::not_found(format!("no directory `{name}` is shared"))),
        }
        Ok(Response::new(ReceiverStream::new(receiver).flat_map(stream::iter).map(Ok).boxed()))
    }

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("tar streams"))
    }
}

/// Returns the values of a metadata key. BuildKit percent-encodes them if one is not plain ASCII, and marks this with a
/// second key.
fn values(metadata: &MetadataMap, key: &str) -> Vec<String> {
    let encoded = metadata.contains_key(format!("{key}-encoded"));
    metadata
        .get_all(key)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .map(|value| if encoded { percent_decode(&value) } else { value })
        .collect()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let decoded = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Receives requests immediately. There are many small ones, and unread requests count against the limits of the HTTP/2
/// connection, which would close.
async fn read_requests(
    mut stream: Streaming<Packet>,
    wanted: mpsc::UnboundedSender<u32>,
    batches: mpsc::Sender<Vec<Packet>>,
) {
    while let Ok(Some(request)) = stream.message().await {
        match request.r#type() {
            PacketType::PacketReq if wanted.send(request.id).is_err() => return,
            // BuildKit sends it after it has received all files. It waits for the reply and for the end of the stream,
            // which ends once all readers have stopped.
            PacketType::PacketFin => {
                let _ = batches.send(vec![packet(PacketType::PacketFin, 0, Vec::new())]).await;
                return;
            }
            _ => {}
        }
    }
}

/// Sends files from memory.
async fn send_small(
    files: Vec<(Stat, Vec<u8>)>,
    batches: mpsc::Sender<Vec<Packet>>,
    mut requests: mpsc::UnboundedReceiver<u32>,
) {
    let stats = files.iter().map(|(stat, _)| Some(stat.clone())).chain([None]);
    let _ = batches.send(stats.map(stat_packet).collect()).await;
    while let Some(id) = requests.recv().await {
        let content =
            usize::try_from(id).ok().and_then(|at| files.get(at)).map(|(_, content)| content.as_slice());
        let pieces = content.unwrap_or_default().chunks(CHUNK).chain([&[][..]]);
        let packets = pieces.map(|piece| packet(PacketType::PacketData, id, piece.to_vec()));
        let _ = batches.send(packets.collect()).await;
    }
}

/// The transfer of a directory. One thread walks the directory while others read requested files.
struct DirectoryTransfer {
    root: PathBuf,
    directories: Directories,
    batches: mpsc::Sender<Vec<Packet>>,
    files: Mutex<Files>,
    requests: Mutex<mpsc::UnboundedReceiver<u32>>,
}

/// The files that BuildKit can request. It receives the whole list before the first request and does not request files
/// that it already has, so all entries are kept, at about 30 bytes each.
#[derive(Default)]
struct Files {
    /// Sorted by the number of the entry.
    found: Vec<Found>,
    /// Their directories, with a trailing slash. A directory may occur more than once.
    directories: Vec<Box<str>>,
    /// Their concatenated names.
    names: String,
}

struct Found {
    number: u32,
    /// In bytes; only used for the size of the first read.
    size: u32,
    /// The index of the directory.
    directory: usize,
    /// The end of the name, which begins at the end of the previous one.
    end: usize,
}

impl Files {
    /// Adds a file. Numbers must increase.
    fn add(&mut self, number: u32, path: &str, size: i64) {
        let (directory, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        if self.directories.last().is_none_or(|last| **last != *directory) {
            self.directories.push(directory.into());
        }
        self.names.push_str(name);
        self.found.push(Found {
            number,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            directory: self.directories.len() - 1,
            end: self.names.len(),
        });
    }

    /// Returns the path of a file and its size at the time of the walk.
    fn find(&self, number: u32) -> Option<(String, u32)> {
        let at = self.found.binary_search_by_key(&number, |found| found.number).ok()?;
        let begin = at.checked_sub(1).map_or(0, |before| self.found[before].end);
        let Found { size, directory, end, .. } = self.found[at];
        Some((format!("{}{}", self.directories[directory], &self.names[begin..end]), size))
    }
}

/// Packets that are sent together.
#[derive(Default)]
struct Batch {
    packets: Vec<Packet>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, id: u32, data: Vec<u8>) {
        self.bytes += data.len();
        self.packets.push(packet(PacketType::PacketData, id, data));
    }

    fn is_full(&self) -> bool {
        self.packets.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    fn take(&mut self) -> Vec<Packet> {
        self.bytes = 0;
        std::mem::take(&mut self.packets)
    }
}

/// The receiver of the packets has closed.
struct Closed;

impl DirectoryTransfer {
    fn walk(&self, selection: &Selection) {
        let mut number = 0;
        let mut batch = Vec::new();
        let mut sizes = Sizes::default();
        let walked = context::walk(&self.root, selection, &mut |stat| {
            if context::has_content(&stat) {
                sizes.add(&stat.path, u64::try_from(stat.size).unwrap_or_default());
                lock(&self.files).add(number, &stat.path, stat.size);
            }
            number += 1;
            batch.push(stat_packet(Some(stat)));
            batch.len() < BATCH || self.send(std::mem::take(&mut batch)).is_ok()
        });
        if let Err(error) = walked {
            return self.fail(self.directories.placed(error, &self.root));
        }
        self.directories.warn_if_large(&sizes);
        batch.push(stat_packet(None));
        let _ = self.send(batch);
    }

    /// Sends requested files, small ones in batches.
    fn read(&self) {
        let mut batch = Batch::default();
        while let Some(id) = self.next(&mut batch) {
            match self.read_file(id, &mut batch) {
                Ok(Ok(())) => {}
                Ok(Err(Closed)) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Returns the number of the next requested file. Sends the batch before it waits for a request.
    fn next(&self, batch: &mut Batch) -> Option<u32> {
        // If another reader holds the lock, it is waiting for a request, so there is none.
        if !batch.is_full()
            && let Ok(mut requests) = self.requests.try_lock()
            && let Ok(id) = requests.try_recv()
        {
            return Some(id);
        }
        self.send(batch.take()).ok()?;
        lock(&self.requests).blocking_recv()
    }

    /// Adds a file to the batch. Sends the batch whenever it is full.
    fn read_file(&self, id: u32, batch: &mut Batch) -> Result<Result<(), Closed>, ContextError> {
        let Some((path, size)) = lock(&self.files).find(id) else { return Ok(Ok(())) };
        let full = self.root.join(&path);
        let mut finder = self.directories.masks.finder();
        let read = |source| ContextError::Read { path: full.clone(), source };
        let Some(mut file) = context::open(&full).map_err(read)? else {
            batch.push(id, Vec::new());
            return Ok(Ok(()));
        };
        // One byte more than expected, so that the first read also finds the end of the file.
        let size = usize::try_from(size).unwrap_or(CHUNK).saturating_add(1).clamp(MIN_READ, CHUNK);
        loop {
            let mut data = vec![0; size];
            let length = read_full(&mut file, &mut data).map_err(read)?;
            let last = length < data.len();
            data.truncate(length);
            if let Some(finder) = &mut finder {
                finder.push(&data);
                if last {
                    finder.finish();
                }
                if last && finder.has_found() {
                    self.directories.warn_about_secret(&path);
                }
            }
            if length > 0 {
                batch.push(id, data);
            }
            if last {
                // An empty packet ends the file.
                batch.push(id, Vec::new());
                return Ok(Ok(()));
            }
            if batch.is_full() && self.send(batch.take()).is_err() {
                return Ok(Err(Closed));
            }
        }
    }

    fn send(&self, batch: Vec<Packet>) -> Result<(), Closed> {
        if batch.is_empty() {
            return Ok(());
        }
        self.batches.blocking_send(batch).map_err(|_| Closed)
    }

    fn fail(&self, error: ContextError) {
        let text = crate::exit::chain(&error);
        lock(&self.directories.failure).get_or_insert(Arc::new(error));
        let _ = self.send(vec![packet(PacketType::PacketErr, 0, text.into_bytes())]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn packet(kind: PacketType, id: u32, data: Vec<u8>) -> Packet {
    Packet { r#type: kind.into(), id, data, stat: None }
}

fn stat_packet(stat: Option<Stat>) -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), stat, ..Packet::default() }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_the_number_of_their_entry() {
        let mut files = Files::default();
        let paths = ["a", "d/b", "d/e/c", "d/f", "é/ü", "z"];
        // The numbers between them are directories, which cannot be requested.
        for (number, path) in (0..).step_by(3).zip(paths) {
            files.add(number, path, i64::from(number) * 1000);
        }
        for (number, path) in (0..).step_by(3).zip(paths) {
            assert_eq!(files.find(number), Some((path.to_owned(), number * 1000)));
            assert_eq!(files.find(number + 1), None);
        }
        files.add(100, "z/huge", 1 << 40);
        assert_eq!(files.find(100), Some(("z/huge".to_owned(), u32::MAX)));
    }
}
