//! Addresses, parsed once: ARNs, image repositories and references, tags, the hosts of Amazon ECR. Pure.

mod arn;
mod image;

pub(crate) use arn::{Arn, is_account, partition_of, short_name, split_parameter, split_secret};
pub(crate) use image::{
    EcrRegistry, ImageReference, ImageRepository, InvalidName, LATEST, LOCAL_HOST, Repository, check_tag,
    is_ecr_public, split_tag,
};

/// Checks the address of a webhook. Without TLS its path and headers, which are secrets, could be read on the way.
pub(crate) fn check_webhook(url: &str) -> Result<(), &'static str> {
    let lower = url.to_ascii_lowercase();
    if lower.starts_with("https://") {
        return Ok(());
    }
    let Some(rest) = lower.strip_prefix("http://") else { return Err("it does not begin with `https://`") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let numbers: Vec<Result<u8, _>> = host.split('.').map(str::parse).collect();
    let is_loopback = matches!(numbers.as_slice(), [Ok(127), Ok(_), Ok(_), Ok(_)]);
    let is_here = is_loopback || host == "localhost" || host == "::1";
    if is_here {
        Ok(())
    } else {
        Err("`http://` is only for this machine, because others could read what is sent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings, A14.
    #[test]
    fn webhooks_use_tls_except_on_this_machine() {
        for url in [
            "https://example.com/x",
            "HTTPS://example.com",
            "http://127.0.0.1:1/hook",
            "http://localhost/x",
            "http://[::1]:8080/",
            "http://127.8.9.1",
        ] {
            assert!(check_webhook(url).is_ok(), "{url}");
        }
        for url in [
            "http://example.com/x",
            "http://10.0.0.1/x",
            "http://localhost.example.com",
            "http://127.0.0.1@example.com/",
            "http://example.com/@127.0.0.1",
            "ftp://localhost",
            "example.com",
            "",
        ] {
            assert!(check_webhook(url).is_err(), "{url}");
        }
    }
}
