//! Parallel compression of layers in independent blocks of a fixed size. The result does not depend on the number of
//! cores: the same layer has the same bytes on every machine.

use super::RegistryError;
use super::manifest::{GZIP_LAYER_TYPE, ZSTD_LAYER_TYPE, sha256_name};
use crate::limits;
use aws_lc_rs::digest::{Context, SHA256};
use libdeflater::{CompressionLvl, Compressor};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// The block size in bytes. Changing it changes every digest.
const BLOCK: usize = 1024 * 1024;
/// Changing it changes every digest. The output of 2 is a few percent larger than that of zlib's 6, at more than twice
/// the speed.
const GZIP_LEVEL: i32 = 2;
/// Changing it changes every digest.
const ZSTD_LEVEL: i32 = 3;
/// More threads would only wait for the engine.
const MAX_THREADS: usize = 16;

/// How layers are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Compression {
    /// Supported by every engine and tool.
    #[default]
    Gzip,
    /// Smaller and faster; requires Docker 23.
    Zstd,
}

impl Compression {
    /// Returns the version of the format. It must change whenever the output changes: with the constants above or the
    /// library.
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

/// Compresses a block into a complete member (gzip) or frame (zstd). Both formats allow any number of them in sequence.
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

/// A block for a worker.
struct BlockTask {
    block: Vec<u8>,
    length: usize,
    result: SyncSender<Result<Done, RegistryError>>,
}

/// A compressed block, with the input buffer for reuse.
struct Done {
    member: Vec<u8>,
    block: Vec<u8>,
}

/// Compresses `source` on this many further threads and passes the output to `write` in order. Returns the digest of
/// the input: the layer's diff id.
pub(crate) fn compress(
    source: &mut dyn Read,
    compression: Compression,
    threads: usize,
    write: &mut dyn FnMut(&[u8]) -> Result<(), RegistryError>,
) -> Result<String, RegistryError> {
    let threads = threads.min(MAX_THREADS);
    let (jobs, queue) = sync_channel::<BlockTask>(threads.max(1));
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        // Moved into the closure, so that the workers end when it returns.
        let jobs = jobs;
        let worker = || work(&queue, compression);
        let workers = (0..threads).map_while(|_| limits::thread().spawn_scoped(scope, worker).ok());
        // Without another thread, this one compresses as well.
        let mut alone = (workers.count() == 0).then(|| compression.compressor());
        let mut hash = Context::new(&SHA256);
        let mut pending: VecDeque<Receiver<Result<Done, RegistryError>>> = VecDeque::new();
        let mut spare = Vec::new();
        let mut first = true;
        loop {
            let mut block = spare.pop().unwrap_or_else(|| vec![0; BLOCK]);
            let length = read_block(source, &mut block)?;
            hash.update(&block[..length]);
            let last = length < BLOCK;
            // An empty layer has one empty member.
            if length > 0 || first {
                let (result, done) = sync_channel(1);
                jobs.send(BlockTask { block, length, result }).map_err(|_| failed(&"no thread is left"))?;
                pending.push_back(done);
                if let Some(compressor) = &mut alone {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).try_recv();
                    if let Ok(job) = job {
                        finish(compressor, job);
                    }
                }
            }
            first = false;
            while pending.len() > if last { 0 } else { 2 * threads } {
                let done = pending.pop_front().and_then(|done| done.recv().ok());
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

fn work(queue: &Mutex<Receiver<BlockTask>>, compression: Compression) {
    let mut compressor = compression.compressor();
    loop {
        // The lock is held while waiting. Other workers would only wait for the same job.
        let Ok(job) = queue.lock().unwrap_or_else(PoisonError::into_inner).recv() else { return };
        finish(&mut compressor, job);
    }
}

fn finish(compressor: &mut Result<BlockCompressor, RegistryError>, job: BlockTask) {
    let member = match compressor {
        Ok(compressor) => compressor.compress(&job.block[..job.length]),
        Err(error) => Err(failed(&error.to_string())),
    };
    let _ = job.result.send(member.map(|member| Done { member, block: job.block }));
}

/// Returns the number of cores.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Fills the buffer, or reads to the end of the source. Returns the number of bytes.
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
            // Half of it repeats, like in real files.
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
    fn output_is_independent_of_threads_and_readable_by_common_tools() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 17] {
            let plain = layer(length);
            for compression in [Compression::Gzip, Compression::Zstd] {
                let one = compressed(&plain, compression, 1);
                for threads in [0, 2, 7] {
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

    /// If these digests change, `version` must change as well: it distinguishes blobs in registries.
    #[test]
    fn the_formats_have_not_changed() {
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
