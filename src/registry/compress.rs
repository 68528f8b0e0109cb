//! Layers compressed in blocks, side by side on all cores. The blocks have one size everywhere and each is compressed by itself,
//! so the number of cores does not show: the same layer gives the same bytes on every machine.

use super::RegistryError;
use super::manifest::{GZIP_LAYER_TYPE, ZSTD_LAYER_TYPE, sha256_name};
use aws_lc_rs::digest::{Context, SHA256};
use libdeflater::{CompressionLvl, Compressor};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Part of both formats: changing it changes every digest. In bytes.
const BLOCK: usize = 1024 * 1024;
/// Part of the gzip format. 2 is within a few percent of zlib's 6 in size, at more than twice its speed.
const GZIP_LEVEL: i32 = 2;
/// Part of the zstd format.
const ZSTD_LEVEL: i32 = 3;
/// More threads than this wait for the engine.
const MAX_THREADS: usize = 16;

/// How layers are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Compression {
    /// What every engine and tool reads.
    #[default]
    Gzip,
    /// Smaller and faster, for engines from 23 on.
    Zstd,
}

impl Compression {
    /// The name of the format. It changes with whatever changes the bytes: a constant above, or the library.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Gzip => "gzip-1",
            Self::Zstd => "zstd-1",
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => GZIP_LAYER_TYPE,
            Self::Zstd => ZSTD_LAYER_TYPE,
        }
    }

    fn compressor(self) -> Result<BlockCompressor, RegistryError> {
        Ok(match self {
            Self::Gzip => BlockCompressor::Gzip(Compressor::new(
                CompressionLvl::new(GZIP_LEVEL).map_err(|_| failed(&"no such level"))?,
            )),
            Self::Zstd => BlockCompressor::Zstd(
                zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(|error| failed(&error))?,
            ),
        })
    }
}

fn failed(error: &dyn ToString) -> RegistryError {
    RegistryError::Export(format!("compression failed: {}", error.to_string()))
}

/// What makes a whole member (gzip) or frame (zstd) of a block; the formats allow any number of them in a row.
enum BlockCompressor {
    Gzip(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl BlockCompressor {
    fn compress(&mut self, block: &[u8]) -> Result<Vec<u8>, RegistryError> {
        match self {
            Self::Gzip(compressor) => {
                let mut member = vec![0; compressor.gzip_compress_bound(block.len())];
                let length = compressor.gzip_compress(block, &mut member);
                member.truncate(length.map_err(|error| failed(&format!("{error:?}")))?);
                Ok(member)
            }
            Self::Zstd(compressor) => compressor.compress(block).map_err(|error| failed(&error)),
        }
    }
}

/// A block on its way to a worker, and where its compressed form goes.
struct Job {
    block: Vec<u8>,
    length: usize,
    answer: SyncSender<Result<Done, RegistryError>>,
}

/// A compressed block, and the buffer that it came in.
struct Done {
    member: Vec<u8>,
    block: Vec<u8>,
}

/// Compresses all that `source` has on this many threads, and hands it to `write` in order. The answer is the digest of what was
/// read: the layer's diff-id.
pub(crate) fn compress(
    source: &mut dyn Read,
    compression: Compression,
    threads: usize,
    write: &mut dyn FnMut(&[u8]) -> Result<(), RegistryError>,
) -> Result<String, RegistryError> {
    let threads = threads.clamp(1, MAX_THREADS);
    let (jobs, queue) = sync_channel::<Job>(threads);
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        // Moved in, so that the workers end with this closure.
        let jobs = jobs;
        for _ in 0..threads {
            scope.spawn(|| work(&queue, compression));
        }
        let mut hash = Context::new(&SHA256);
        let mut under_way: VecDeque<Receiver<Result<Done, RegistryError>>> = VecDeque::new();
        let mut spare = Vec::new();
        let mut first = true;
        loop {
            let mut block = spare.pop().unwrap_or_else(|| vec![0; BLOCK]);
            let length = read_block(source, &mut block)?;
            hash.update(&block[..length]);
            let last = length < BLOCK;
            // An empty layer is one empty member, not an empty file.
            if length > 0 || first {
                let (answer, done) = sync_channel(1);
                jobs.send(Job { block, length, answer }).map_err(|_| failed(&"no thread is left"))?;
                under_way.push_back(done);
            }
            first = false;
            while under_way.len() > if last { 0 } else { 2 * threads } {
                let done = under_way.pop_front().and_then(|done| done.recv().ok());
                let done = done.ok_or_else(|| failed(&"a thread ended"))??;
                write(&done.member)?;
                spare.push(done.block);
            }
            if last {
                return Ok(sha256_name(&hash.finish()));
            }
        }
    })
}

fn work(queue: &Mutex<Receiver<Job>>, compression: Compression) {
    let mut compressor = compression.compressor();
    loop {
        // The lock is held while waiting: another worker would only wait for the same.
        let Ok(job) = queue.lock().unwrap_or_else(PoisonError::into_inner).recv() else { return };
        let member = match &mut compressor {
            Ok(compressor) => compressor.compress(&job.block[..job.length]),
            Err(error) => Err(failed(&error.to_string())),
        };
        let _ = job.answer.send(member.map(|member| Done { member, block: job.block }));
    }
}

/// As many threads as there are cores.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Fills the buffer as far as the source goes.
pub(crate) fn read_block(source: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, RegistryError> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(RegistryError::Stream(error)),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::manifest::digest_of;

    fn layer(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Half of it repeats, as files do.
            if state & 0x4000_0000 == 0 { b'a' } else { state.to_le_bytes()[3] }
        };
        (0..length).map(|_| next()).collect()
    }

    fn compressed(bytes: &[u8], compression: Compression, threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut source = bytes;
        let mut write = |piece: &[u8]| {
            out.extend_from_slice(piece);
            Ok(())
        };
        let diff_id = compress(&mut source, compression, threads, &mut write).unwrap();
        assert_eq!(diff_id, digest_of(bytes));
        out
    }

    #[test]
    fn threads_do_not_show_and_the_usual_tools_read_it() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 17] {
            let plain = layer(length);
            for compression in [Compression::Gzip, Compression::Zstd] {
                let one = compressed(&plain, compression, 1);
                for threads in [2, 7] {
                    assert_eq!(one, compressed(&plain, compression, threads), "{length} {threads}");
                }
                let read = match compression {
                    Compression::Gzip => {
                        duct::cmd!("gzip", "-dc").stdin_bytes(one).stdout_capture().run().unwrap().stdout
                    }
                    Compression::Zstd => zstd::stream::decode_all(one.as_slice()).unwrap(),
                };
                assert!(read == plain, "{length} {compression:?}");
            }
        }
    }

    /// Whoever changes these digests changes `version` too: blobs in registries are told apart by it.
    #[test]
    fn the_formats_are_what_they_were() {
        let plain = layer(2 * BLOCK + 5);
        let digest = |compression| digest_of(&compressed(&plain, compression, 2));
        assert_eq!(
            digest(Compression::Gzip),
            "sha256:fbf9db1d6ef8981c2417bf29845e7fde6c77b771c4c8d6e3e3a68adeff51e557"
        );
        assert_eq!(
            digest(Compression::Zstd),
            "sha256:09d7a29eb4839728d9584377bc62beb9c9799c2d36285ea6ee504dee84bbfebb"
        );
    }
}
