//! Names of repositories and tags, by the rules of the OCI distribution specification, and what ECR's hosts tell. Pure.

use std::fmt;

/// A name that no registry accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid {what}")]
pub(crate) struct InvalidName {
    /// What it should be.
    pub(crate) what: &'static str,
    pub(crate) name: String,
}

/// Where Docker Hub's registry answers.
const HUB: &str = "registry-1.docker.io";

/// A repository in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// The registry's host, with its port where it has one.
    pub(crate) host: String,
    /// The path within the registry.
    pub(crate) path: String,
}

impl Repository {
    /// Reads `host/path`. A name whose first part cannot be a host is none: nothing where `name` is a bare path.
    pub(crate) fn parse(name: &str) -> Result<Option<Self>, InvalidName> {
        let Some((host, path)) = name.split_once('/') else {
            check_path(name)?;
            return Ok(None);
        };
        if !is_host(host) {
            check_path(name)?;
            return Ok(None);
        }
        // What was written is shown whole.
        let whole = |error: InvalidName| InvalidName { name: name.to_owned(), ..error };
        check_path(path).map_err(whole)?;
        check_host(host).map_err(whole)?;
        Ok(Some(Self { host: host.to_owned(), path: path.to_owned() }))
    }

    /// The host to connect to, which for Docker Hub is not the one in names.
    pub(crate) fn api_host(&self) -> &str {
        match self.host.as_str() {
            "docker.io" | "index.docker.io" => HUB,
            host => host,
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// The rule of the docker command: a host has a dot or a port, or is `localhost`.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

fn check_host(host: &str) -> Result<(), InvalidName> {
    let ends = |character: Option<char>| character.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = ends(host.chars().next())
        && ends(host.chars().last())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:".contains(c));
    if valid { Ok(()) } else { Err(InvalidName { what: "registry host", name: host.to_owned() }) }
}

fn check_path(path: &str) -> Result<(), InvalidName> {
    let valid = !path.is_empty()
        && path.len() <= 255
        && path.split('/').all(|component| {
            let ends = |character: Option<char>| character.is_some_and(|c| c.is_ascii_alphanumeric());
            ends(component.chars().next())
                && ends(component.chars().last())
                && component
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        });
    if valid {
        Ok(())
    } else {
        Err(InvalidName {
            what: "repository name (lower-case letters, digits, `.`, `_`, `-` and `/`)",
            name: path.to_owned(),
        })
    }
}

/// The tag of a name that has none.
pub(crate) const LATEST: &str = "latest";

/// An image's name without its tag, and the tag where it has one. A colon before the last slash is that of a port.
pub(crate) fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

/// Checks a tag's name.
pub(crate) fn check_tag(tag: &str) -> Result<(), InvalidName> {
    let first = tag.chars().next();
    let valid = tag.len() <= 128
        && first.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if valid {
        Ok(())
    } else {
        Err(InvalidName {
            what: "tag (letters, digits, `.`, `_` and `-`, at most 128; `source.branch.slug` is a branch made fit)",
            name: tag.to_owned(),
        })
    }
}

/// The partition of AWS that a region belongs to.
pub(crate) fn partition_of(region: &str) -> &'static str {
    match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// An ECR registry, as its host name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EcrHost {
    /// The account that owns it.
    pub(crate) account: String,
    pub(crate) region: String,
}

impl EcrHost {
    /// Account and region of a host that has ECR's form, whatever stands in their places.
    pub(crate) fn parts(host: &str) -> Option<(&str, &str)> {
        let (account, rest) = host.split_once(".dkr.ecr")?;
        let rest = rest.strip_prefix("-fips").unwrap_or(rest).strip_prefix('.')?;
        let region =
            rest.strip_suffix(".amazonaws.com.cn").or_else(|| rest.strip_suffix(".amazonaws.com"))?;
        Some((account, region))
    }

    /// Reads `ACCOUNT.dkr.ecr.REGION.amazonaws.com`, its FIPS and its Chinese form. Nothing for any other host.
    pub(crate) fn parse(host: &str) -> Option<Self> {
        let (account, region) = Self::parts(host)?;
        let valid = account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && !region.is_empty()
            && !region.contains('.');
        valid.then(|| Self { account: account.to_owned(), region: region.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_paths() {
        let parse = |name| Repository::parse(name).unwrap().map(|repository| repository.to_string());
        assert_eq!(parse("webapp"), None);
        assert_eq!(parse("team/webapp"), None);
        assert_eq!(parse("localhost/webapp").as_deref(), Some("localhost/webapp"));
        assert_eq!(parse("r.example:5000/a/b").as_deref(), Some("r.example:5000/a/b"));
        assert_eq!(parse("docker.io/library/a").as_deref(), Some("docker.io/library/a"));
    }

    #[test]
    fn invalid_names_are_refused() {
        for name in ["", "Web", "a//b", "a b", "-a", "r.example/", "../a"] {
            assert!(Repository::parse(name).is_err(), "{name}");
        }
        for tag in ["", "a/b", "-x", "a b", &"x".repeat(129)] {
            assert!(check_tag(tag).is_err(), "{tag}");
        }
        assert!(check_tag("v1.2_x-3").is_ok());
    }

    #[test]
    fn hosts_of_ecr_are_known() {
        let region = |host: &str| EcrHost::parse(host).map(|host| host.region);
        let account = "123456789012.dkr.ecr";
        assert_eq!(region(&format!("{account}.eu-west-1.amazonaws.com")).unwrap(), "eu-west-1");
        assert_eq!(region(&format!("{account}-fips.us-east-1.amazonaws.com")).unwrap(), "us-east-1");
        assert_eq!(region(&format!("{account}.cn-north-1.amazonaws.com.cn")).unwrap(), "cn-north-1");
        assert_eq!(region("public.ecr.aws"), None);
        assert_eq!(region("12.dkr.ecr.eu-west-1.amazonaws.com"), None);
        assert_eq!(region(&format!("{account}.evil.example.amazonaws.com")), None);
    }
}
