//! An SSH agent that holds one private key: the agent's messages, and the signatures.
//!
//! The key signs with aws-lc-rs. Why not with the crates that `ssh-key` would use: docs/decisions/0032-rsa.md.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use ssh_key::PrivateKey;
use ssh_key::private::{EcdsaKeypair, KeypairData, RsaKeypair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest message that a build may send, in bytes; OpenSSH's own limit.
const LONGEST_MESSAGE: u32 = 256 * 1024;

/// The numbers of the messages, from the agent protocol (draft-ietf-sshm-ssh-agent).
mod message {
    pub(super) const FAILURE: u8 = 5;
    pub(super) const REQUEST_IDENTITIES: u8 = 11;
    pub(super) const IDENTITIES_ANSWER: u8 = 12;
    pub(super) const SIGN_REQUEST: u8 = 13;
    pub(super) const SIGN_RESPONSE: u8 = 14;
    pub(super) const EXTENSION: u8 = 27;
    pub(super) const EXTENSION_FAILURE: u8 = 28;
}

/// The flags of a request to sign: the hash for an RSA key.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// A private key that can sign, and what identifies it.
pub(crate) struct AgentKey {
    /// The public key in SSH's wire format.
    public: Vec<u8>,
    comment: String,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    /// With the name of the algorithm.
    Ecdsa(EcdsaKeyPair, String),
    Rsa(RsaKeyPair),
}

impl AgentKey {
    /// `None` for kinds that need hardware, for DSA, and for RSA keys that are invalid or have fewer than 2048 bits.
    pub(crate) fn new(key: &PrivateKey) -> Option<Self> {
        let signer = match key.key_data() {
            KeypairData::Ed25519(pair) => {
                let seed = pair.private.to_bytes();
                Signer::Ed25519(Ed25519KeyPair::from_seed_and_public_key(&seed, &pair.public.0).ok()?)
            }
            KeypairData::Ecdsa(pair) => {
                let algorithm = match pair {
                    EcdsaKeypair::NistP256 { .. } => &ECDSA_P256_SHA256_FIXED_SIGNING,
                    EcdsaKeypair::NistP384 { .. } => &ECDSA_P384_SHA384_FIXED_SIGNING,
                    EcdsaKeypair::NistP521 { .. } => &ECDSA_P521_SHA512_FIXED_SIGNING,
                };
                let (private, public) = (pair.private_key_bytes(), pair.public_key_bytes());
                let signer =
                    EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public).ok()?;
                Signer::Ecdsa(signer, pair.algorithm().as_str().to_owned())
            }
            KeypairData::Rsa(pair) => Signer::Rsa(RsaKeyPair::from_der(&pkcs1(pair)?).ok()?),
            _ => return None,
        };
        let public = key.public_key().to_bytes().ok()?;
        Some(Self { public, comment: key.comment().to_owned(), signer })
    }

    /// Answers the messages of one connection until it is closed or sends one that is too long.
    pub(crate) async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        while let Ok(length @ ..=LONGEST_MESSAGE) = stream.read_u32().await {
            let mut request = vec![0; length as usize];
            if stream.read_exact(&mut request).await.is_err() {
                return;
            }
            let mut response = Vec::new();
            put_string(&mut response, &self.answer(&request));
            if stream.write_all(&response).await.is_err() {
                return;
            }
        }
    }

    /// The key can be listed and used; all other requests fail.
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        match request.split_first() {
            Some((&message::REQUEST_IDENTITIES, _)) => {
                let mut answer = vec![message::IDENTITIES_ANSWER];
                answer.extend(1_u32.to_be_bytes());
                put_string(&mut answer, &self.public);
                put_string(&mut answer, self.comment.as_bytes());
                answer
            }
            Some((&message::SIGN_REQUEST, rest)) => match self.sign(rest) {
                Some(signature) => {
                    let mut answer = vec![message::SIGN_RESPONSE];
                    put_string(&mut answer, &signature);
                    answer
                }
                None => vec![message::FAILURE],
            },
            Some((&message::EXTENSION, _)) => vec![message::EXTENSION_FAILURE],
            _ => vec![message::FAILURE],
        }
    }

    /// The signature in SSH's wire format: the algorithm, and a string of its own form.
    fn sign(&self, mut request: &[u8]) -> Option<Vec<u8>> {
        let (key, data) = (take_string(&mut request)?, take_string(&mut request)?);
        let flags = u32::from_be_bytes(*request.first_chunk()?);
        if key != self.public {
            return None;
        }
        let (algorithm, signature) = match &self.signer {
            Signer::Ed25519(pair) => ("ssh-ed25519", pair.try_sign(data).ok()?.as_ref().to_vec()),
            Signer::Ecdsa(pair, algorithm) => {
                let signature = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let mut numbers = Vec::new();
                put_string(&mut numbers, &positive(r));
                put_string(&mut numbers, &positive(s));
                (algorithm.as_str(), numbers)
            }
            Signer::Rsa(pair) => {
                // Without a flag the request means SHA-1, which servers have refused since OpenSSH 8.8.
                let (algorithm, padding) = if flags & RSA_SHA2_512 != 0 {
                    ("rsa-sha2-512", &RSA_PKCS1_SHA512)
                } else if flags & RSA_SHA2_256 != 0 {
                    ("rsa-sha2-256", &RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signature).ok()?;
                (algorithm, signature)
            }
        };
        let mut blob = Vec::new();
        put_string(&mut blob, algorithm.as_bytes());
        put_string(&mut blob, &signature);
        Some(blob)
    }
}

/// Appends SSH's `string`: the length and the bytes. Those of this module are all short.
fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend(bytes);
}

fn take_string<'b>(from: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *from = rest;
    Some(bytes)
}

/// A positive number as SSH and DER write it: without leading zeros, and with one if the first bit is set.
fn positive(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let digits = &number[zeros..];
    let sign = digits.first().is_none_or(|first| first & 0x80 != 0);
    let mut bytes = if sign { vec![0] } else { Vec::new() };
    bytes.extend(digits);
    bytes
}

/// An RSA key as PKCS #1 has it. OpenSSH's format lacks two of its numbers, which are remainders of the private exponent.
fn pkcs1(pair: &RsaKeypair) -> Option<Vec<u8>> {
    let (public, private) = (&pair.public, &pair.private);
    let d = private.d.as_positive_bytes()?;
    let (p, q) = (private.p.as_positive_bytes()?, private.q.as_positive_bytes()?);
    let numbers = [&public.n, &public.e, &private.d, &private.p, &private.q];
    let mut content = der(0x02, &[0]);
    for number in numbers {
        content.extend(der(0x02, &positive(number.as_positive_bytes()?)));
    }
    for remainder in [remainder(d, &before(p)?), remainder(d, &before(q)?)] {
        content.extend(der(0x02, &positive(&remainder)));
    }
    content.extend(der(0x02, &positive(private.iqmp.as_positive_bytes()?)));
    Some(der(0x30, &content))
}

/// A DER element: tag, length and content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut element = vec![tag];
    match length {
        [] => element.push(0),
        [short @ ..0x80] => element.push(*short),
        // There are at most eight bytes of it.
        long => {
            element.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            element.extend(long);
        }
    }
    element.extend(content);
    element
}

/// The number before an odd one.
fn before(odd: &[u8]) -> Option<Vec<u8>> {
    let (last, rest) = odd.split_last()?;
    (last & 1 == 1).then(|| [rest, &[last - 1]].concat())
}

/// The remainder of a division, bit by bit.
fn remainder(number: &[u8], divisor: &[u8]) -> Vec<u8> {
    // One byte more than the divisor, because the remainder is doubled before it is reduced.
    let divisor = [&[0], divisor].concat();
    let mut remainder = vec![0_u8; divisor.len()];
    let bits = number.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    for bit in bits {
        let mut carry = bit;
        for byte in remainder.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if remainder >= divisor {
            let mut borrow = false;
            for (byte, other) in remainder.iter_mut().zip(&divisor).rev() {
                let (once, first) = byte.overflowing_sub(*other);
                let (twice, second) = once.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (twice, first || second);
            }
        }
    }
    remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_elements_are_encoded() {
        assert_eq!(positive(&[0, 0, 0x7f]), [0x7f]);
        assert_eq!(positive(&[0x80]), [0, 0x80]);
        assert_eq!(positive(&[0]), [0]);
        assert_eq!(der(2, &[7]), [2, 1, 7]);
        assert_eq!(der(4, &[1; 0x80])[..4], [4, 0x81, 0x80, 1]);
        assert_eq!(der(4, &[1; 0x1234])[..5], [4, 0x82, 0x12, 0x34, 1]);
    }

    #[test]
    fn remainders_are_those_of_the_processor() {
        let mut number = 0x0123_4567_89ab_cdef_u64;
        for _ in 0..200 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let divisor = number.rotate_left(29) >> (number % 60) | 1;
            let expected = (number % divisor).to_be_bytes();
            let found = remainder(&number.to_be_bytes(), &divisor.to_be_bytes());
            assert_eq!(found[1..], expected, "{number} % {divisor}");
        }
    }

    /// `ssh-keygen` signs by way of the agent, and verifies: it knows nothing of the private key.
    #[tokio::test(flavor = "multi_thread")]
    async fn openssh_accepts_the_signatures_of_every_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("text"), "text").unwrap();
        for (kind, bits) in
            [("ed25519", 256), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048), ("rsa", 3071)]
        {
            let name = format!("{kind}{bits}");
            let keygen = |arguments: &[&str]| {
                let mut command = std::process::Command::new("ssh-keygen");
                command.current_dir(directory.path()).env("SSH_AUTH_SOCK", path(&format!("{name}.sock")));
                command.args(arguments).stdin(std::fs::File::open(path("text")).unwrap());
                let output = command.output().unwrap();
                assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
            };
            // `ssh-key` 0.6 cannot read an ECDSA key whose private number is short: every fourth of P-521.
            let key = loop {
                keygen(&["-q", "-t", kind, "-b", &bits.to_string(), "-N", "", "-C", "c", "-f", &name]);
                match PrivateKey::from_openssh(std::fs::read(path(&name)).unwrap()) {
                    Ok(key) => break key,
                    Err(error) => assert_eq!(kind, "ecdsa", "{error}"),
                }
                std::fs::remove_file(path(&name)).unwrap();
            };
            let key = AgentKey::new(&key).unwrap();
            std::fs::remove_file(path(&name)).unwrap();
            let listener = tokio::net::UnixListener::bind(path(&format!("{name}.sock"))).unwrap();
            let server = tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    key.serve(stream).await;
                }
            });
            let public = std::fs::read_to_string(path(&format!("{name}.pub"))).unwrap();
            std::fs::write(path("signers"), format!("me {public}")).unwrap();
            for hash in ["sha256", "sha512"] {
                let _ = std::fs::remove_file(path("text.sig"));
                let hash = format!("hashalg={hash}");
                keygen(&["-Y", "sign", "-O", &hash, "-f", &format!("{name}.pub"), "-n", "test", "text"]);
                keygen(&["-Y", "verify", "-f", "signers", "-I", "me", "-n", "test", "-s", "text.sig"]);
            }
            server.abort();
        }
    }

    #[test]
    fn broken_requests_fail() {
        let key = PrivateKey::from_openssh(KEY).unwrap();
        let key = AgentKey::new(&key).unwrap();
        for request in [&[][..], &[message::SIGN_REQUEST], &[message::SIGN_REQUEST, 0, 0, 0, 9, 1], &[99]] {
            assert_eq!(key.answer(request), [message::FAILURE]);
        }
        assert_eq!(key.answer(&[message::EXTENSION]), [message::EXTENSION_FAILURE]);
        assert_eq!(key.answer(&[message::REQUEST_IDENTITIES])[..5], [message::IDENTITIES_ANSWER, 0, 0, 0, 1]);
        // Another key than its own.
        let request = [&[message::SIGN_REQUEST][..], &[0, 0, 0, 1, 1], &[0, 0, 0, 0], &[0; 4]].concat();
        assert_eq!(key.answer(&request), [message::FAILURE]);
    }

    /// Made for this test by `ssh-keygen -t ed25519`.
    const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\n\
        b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n\
        QyNTUxOQAAACAzD9KT3INyRFV7nYcW99nO1MGaGcTCPs5xPFVemrHFUAAAAIhLGmWmSxpl\n\
        pgAAAAtzc2gtZWQyNTUxOQAAACAzD9KT3INyRFV7nYcW99nO1MGaGcTCPs5xPFVemrHFUA\n\
        AAAECY0QlhMqJQmZQiZo8LXjK5bY+Hcri/uA1kIHXF6VmfTjMP0pPcg3JEVXudhxb32c7U\n\
        wZoZxMI+znE8VV6ascVQAAAABHRlc3QB\n\
        -----END OPENSSH PRIVATE KEY-----\n";
}
