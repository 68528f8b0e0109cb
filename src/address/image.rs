//! Image repositories, references and tags, by the rules of the OCI distribution specification, and ECR's hosts.

use super::arn::{is_account, partition_of};
use std::fmt;

/// A name that no registry accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid {what}")]
pub(crate) struct InvalidName {
    /// The kind of name, with its rules.
    pub(crate) what: &'static str,
    pub(crate) name: String,
}

/// Docker Hub, as image names spell it.
const HUB: &str = "docker.io";
/// The host of Docker Hub's registry API.
const HUB_API: &str = "registry-1.docker.io";
/// The hosts of Amazon ECR Public.
const ECR_PUBLIC: [&str; 2] = ["public.ecr.aws", "ecr-public.aws.com"];
/// The host in the engine's name of an image whose repository has no registry. It never resolves (RFC 6761).
pub(crate) const LOCAL_HOST: &str = "local.invalid";

/// An image repository, by the kind of registry that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageRepository {
    /// In a private registry of Amazon ECR.
    PrivateEcr { registry: EcrRegistry, repository: Repository },
    /// In Amazon ECR Public.
    PublicEcr(Repository),
    /// In any other registry.
    Elsewhere(Repository),
    /// A name without a registry: a push takes it for private ECR in the account and region of the credentials.
    Bare(String),
}

impl ImageRepository {
    /// Reads `HOST/PATH` or `PATH`, without a tag.
    pub(crate) fn parse(name: &str) -> Result<Self, InvalidName> {
        let Some(repository) = Repository::parse(name)? else {
            check_ecr_path(name, name)?;
            return Ok(Self::Bare(name.to_owned()));
        };
        if let Some(registry) = EcrRegistry::parse(&repository.host) {
            check_ecr_path(&repository.path, name)?;
            check_ecr_length(&repository.path, name)?;
            return Ok(Self::PrivateEcr { registry, repository });
        }
        if is_ecr_public(&repository.host) {
            // The first part is the registry's alias.
            let what = "repository of ECR Public, which is `public.ecr.aws/ALIAS/NAME`";
            let (_, path) =
                repository.path.split_once('/').ok_or_else(|| InvalidName { what, name: name.to_owned() })?;
            check_ecr_path(&repository.path, name)?;
            check_ecr_length(path, name)?;
            return Ok(Self::PublicEcr(repository));
        }
        Ok(Self::Elsewhere(repository))
    }

    /// The name in the engine: bare names get [`LOCAL_HOST`], because the engine would take them for Docker Hub.
    pub(crate) fn engine_name(&self) -> String {
        match self {
            Self::PrivateEcr { repository, .. }
            | Self::PublicEcr(repository)
            | Self::Elsewhere(repository) => repository.to_string(),
            Self::Bare(path) => format!("{LOCAL_HOST}/{path}"),
        }
    }
}

/// A repository with its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// The registry's host, with its port if it has one.
    pub(crate) host: String,
    /// The path within the registry.
    pub(crate) path: String,
}

impl Repository {
    /// Reads `HOST/PATH`. Returns `None` for a bare path, whose first component cannot be a host.
    pub(crate) fn parse(name: &str) -> Result<Option<Self>, InvalidName> {
        let Some((host, path)) = name.split_once('/') else {
            check_path(name)?;
            return Ok(None);
        };
        if !is_host(host) {
            check_path(name)?;
            return Ok(None);
        }
        // The error shows the whole name.
        let whole = |error: InvalidName| InvalidName { name: name.to_owned(), ..error };
        check_path(path).map_err(whole)?;
        check_host(host).map_err(whole)?;
        Ok(Some(Self { host: host.to_owned(), path: path.to_owned() }))
    }

    /// The host to connect to. That of Docker Hub differs from the one in image names.
    pub(crate) fn api_host(&self) -> &str {
        match self.host.as_str() {
            HUB | "index.docker.io" => HUB_API,
            host => host,
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// Whether a host is that of Amazon ECR Public.
pub(crate) fn is_ecr_public(host: &str) -> bool {
    ECR_PUBLIC.contains(&host)
}

/// Docker's rule: a host has a dot or a port, or is `localhost`.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

/// A host is a domain name, an IPv4 address or an IPv6 address in brackets, and may have a port. Its grammar is that of
/// <https://pkg.go.dev/github.com/distribution/reference>.
fn check_host(host: &str) -> Result<(), InvalidName> {
    let (name, port) = if let Some((ip, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']'))
    {
        (is_ipv6(ip), port)
    } else {
        let name = host.split(':').next().unwrap_or(host);
        (name.split('.').all(is_domain_label), &host[name.len()..])
    };
    let port = match port.strip_prefix(':') {
        Some(port) => {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0)
        }
        None => port.is_empty(),
    };
    let what = "registry host (a domain name or an IP address, with a port from 1 to 65535 or without one)";
    if name && port { Ok(()) } else { Err(InvalidName { what, name: host.to_owned() }) }
}

fn is_domain_label(label: &str) -> bool {
    let ends = |character: Option<char>| character.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(label.chars().next())
        && ends(label.chars().last())
        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Whether a text is an IPv6 address: eight groups of hexadecimal digits, of which one `::` may replace some.
fn is_ipv6(text: &str) -> bool {
    let groups = |half: &str| {
        let mut groups = half.split(':').filter(|_| !half.is_empty());
        let valid = groups.clone().all(|group| {
            (1..=4).contains(&group.len()) && group.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        valid.then(|| groups.by_ref().count())
    };
    match *text.split("::").map(groups).collect::<Vec<_>>() {
        [Some(all)] => all == 8,
        [Some(before), Some(after)] => before + after < 8,
        _ => false,
    }
}

fn check_path(path: &str) -> Result<(), InvalidName> {
    let is_separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    let valid = path.len() <= 255 && path.split('/').all(|component| is_component(component, &is_separator));
    let what = "repository name (lower-case letters and digits, separated by `/`, `.`, `_`, `__` or `-`)";
    if valid { Ok(()) } else { Err(InvalidName { what, name: path.to_owned() }) }
}

/// ECR's own rule, which is narrower: the pattern of `repositoryName` in its API reference. The error shows the whole
/// name.
fn check_ecr_path(path: &str, whole: &str) -> Result<(), InvalidName> {
    let is_separator = |text: &str| matches!(text, "." | "_" | "-");
    let what =
        "repository name of ECR (lower-case letters and digits, separated by single `/`, `.`, `_` or `-`)";
    let valid = path.split('/').all(|component| is_component(component, &is_separator));
    if valid { Ok(()) } else { Err(InvalidName { what, name: whole.to_owned() }) }
}

/// ECR's shortest name. A name without a registry may be shorter, because local mode does not ask ECR.
fn check_ecr_length(path: &str, whole: &str) -> Result<(), InvalidName> {
    let what = "repository name of ECR (at least 2 characters)";
    if path.len() >= 2 { Ok(()) } else { Err(InvalidName { what, name: whole.to_owned() }) }
}

/// Whether a text consists of lower-case letters and digits, with separators between them.
fn is_component(component: &str, is_separator: &dyn Fn(&str) -> bool) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(is_plain)
        && component.ends_with(is_plain)
        && component.split(is_plain).filter(|between| !between.is_empty()).all(is_separator)
}

/// The tag of a reference without tag and digest.
pub(crate) const LATEST: &str = "latest";

/// An image reference: `REPOSITORY[:TAG][@DIGEST]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageReference<'a> {
    /// The repository as it is written.
    pub(crate) name: &'a str,
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: Option<&'a str>,
}

impl<'a> ImageReference<'a> {
    /// Splits a reference. Its parts are not checked.
    pub(crate) fn parse(text: &'a str) -> Self {
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        let (name, tag) = split_tag(name);
        Self { name, tag, digest }
    }

    /// Splits a reference and checks its parts by the grammar of references.
    pub(crate) fn checked(text: &'a str) -> Result<Self, InvalidName> {
        let invalid = |what| InvalidName { what, name: text.to_owned() };
        let reference = Self::parse(text);
        let is_digest = |hex: &str| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if reference.name == "sha256" && reference.tag.is_some_and(is_digest) {
            return Err(invalid("image: a digest belongs after a repository, as in REPOSITORY@sha256:…"));
        }
        ImageRepository::parse(reference.name)?;
        reference.tag.map_or(Ok(()), check_tag)?;
        match reference.digest {
            Some(digest) if !digest.strip_prefix("sha256:").is_some_and(is_digest) => {
                Err(invalid("image: its digest is not sha256: with 64 hexadecimal digits"))
            }
            _ => Ok(reference),
        }
    }

    /// Whether a text stands for an image that another tool fills in, such as `CodePipeline`'s `<IMAGE1_NAME>`.
    pub(crate) fn is_placeholder(text: &str) -> bool {
        text.starts_with('<') && text.ends_with('>')
    }

    /// The digest, or else the tag, or else `latest`.
    pub(crate) fn tag_or_digest(&self) -> &'a str {
        self.digest.or(self.tag).unwrap_or(LATEST)
    }

    /// The repository that Docker pulls from: Docker Hub without a registry, and its `library/` without a slash.
    pub(crate) fn repository(&self) -> Result<Repository, InvalidName> {
        let parsed = Repository::parse(self.name)?;
        let mut repository =
            parsed.unwrap_or_else(|| Repository { host: HUB.to_owned(), path: self.name.to_owned() });
        if repository.host == HUB && !repository.path.contains('/') {
            repository.path.insert_str(0, "library/");
        }
        Ok(repository)
    }
}

/// Splits the tag off an image's name. A colon before the last slash belongs to a port.
pub(crate) fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

pub(crate) fn check_tag(tag: &str) -> Result<(), InvalidName> {
    let first = tag.chars().next();
    let valid = tag.len() <= 128
        && first.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if valid {
        Ok(())
    } else {
        Err(InvalidName {
            what: "tag (letters, digits, `.`, `_` and `-`, at most 128; `source.branch.slug` is the branch name in this form)",
            name: tag.to_owned(),
        })
    }
}

/// A private registry of Amazon ECR: one per account and region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EcrRegistry {
    pub(crate) account: String,
    pub(crate) region: String,
}

impl EcrRegistry {
    /// Reads `ACCOUNT.dkr.ecr.REGION.amazonaws.com`, also with `-fips` or `.cn`. Returns `None` for any other host.
    pub(crate) fn parse(host: &str) -> Option<Self> {
        let (account, region) = Self::parts(host)?;
        let valid = is_account(account) && !region.is_empty() && !region.contains('.');
        valid.then(|| Self { account: account.to_owned(), region: region.to_owned() })
    }

    /// The account and region of a host in ECR's form. Both are unchecked, so they may be patterns or references.
    pub(crate) fn parts(host: &str) -> Option<(&str, &str)> {
        let (account, rest) = host.split_once(".dkr.ecr")?;
        let rest = rest.strip_prefix("-fips").unwrap_or(rest).strip_prefix('.')?;
        let region =
            rest.strip_suffix(".amazonaws.com.cn").or_else(|| rest.strip_suffix(".amazonaws.com"))?;
        Some((account, region))
    }

    /// The host of the registry of an account in a region.
    pub(crate) fn host(account: &str, region: &str) -> String {
        let suffix = if partition_of(region) == "aws-cn" { ".cn" } else { "" };
        format!("{account}.dkr.ecr.{region}.amazonaws.com{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_differ_from_paths() {
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

    /// Findings, B11.
    #[test]
    fn hosts_follow_the_grammar_of_references() {
        for host in [
            "docker..io",
            ".io",
            "io.",
            "-a.example",
            "a-.example",
            "a_b.example",
            "host:",
            "host:0",
            "host:65536",
            "host:99999",
            "host:+80",
            "host:80:90",
            "a.example:x",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[::1]:99999",
            "[]",
            "[:::]",
            "[1::2::3]",
            "[12345::]",
            "[1:2:3:4:5:6:7]",
            "[::g]",
            "[1:2:3:4:5:6:7::8]",
            "::1",
        ] {
            let name = format!("{host}/x");
            assert!(Repository::parse(&name).is_err(), "{name}");
        }
        for host in [
            "docker.io",
            "LOCALHOST:1",
            "localhost",
            "xn--a.example:65535",
            "1.2.3.4",
            "[::1]:5000",
            "[::1]",
            "[fe80::A:1]",
            "[1:2:3:4:5:6:7:8]:80",
            "[::]",
        ] {
            let name = format!("{host}/x");
            assert_eq!(Repository::parse(&name).unwrap().unwrap().host, host, "{name}");
        }
        let reference = ImageReference::parse("[::1]:5000/x:v1");
        assert_eq!((reference.name, reference.tag), ("[::1]:5000/x", Some("v1")));
    }

    #[test]
    fn paths_follow_the_grammar_of_references_and_of_ecr() {
        let elsewhere = |path: &str| ImageRepository::parse(&format!("r.example/{path}")).is_ok();
        let ecr = |path: &str| {
            ImageRepository::parse(&format!("123456789012.dkr.ecr.eu-west-1.amazonaws.com/{path}")).is_ok()
        };
        let bare = |path: &str| ImageRepository::parse(path).is_ok();
        for path in ["a__b", "a--b", "a---b/c"] {
            assert!(elsewhere(path) && !ecr(path) && !bare(path), "{path}");
        }
        for path in ["a___b", "a..b", "a._b", "a.-b", "a-", "_a", "a/", "/a", "a//b", "a/-b", "A", "ä", ""] {
            assert!(!elsewhere(path) && !ecr(path) && !bare(path), "{path}");
        }
        for path in ["ab", "a.b-c_d/e1", "a/b/c", "0a"] {
            assert!(elsewhere(path) && ecr(path), "{path}");
        }
        assert!(elsewhere("a") && bare("a") && !ecr("a"));
        assert!(elsewhere(&"a".repeat(255)) && !elsewhere(&"a".repeat(256)));
        let public = |path: &str| ImageRepository::parse(&format!("public.ecr.aws/{path}")).is_ok();
        assert!(public("alias/web") && public("alias/team/web"));
        assert!(!public("web") && !public("alias/a__b") && !public("alias/a"));
    }

    #[test]
    fn repositories_have_a_kind() {
        let parse = |name: &str| ImageRepository::parse(name).unwrap();
        let account = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
        let private = parse(&format!("{account}/team/web"));
        let ImageRepository::PrivateEcr { registry, repository } = &private else { panic!("{private:?}") };
        assert_eq!((registry.account.as_str(), registry.region.as_str()), ("123456789012", "eu-west-1"));
        assert_eq!((repository.host.as_str(), repository.path.as_str()), (account, "team/web"));
        assert_eq!(EcrRegistry::host(&registry.account, &registry.region), account);
        assert!(matches!(parse("public.ecr.aws/alias/web"), ImageRepository::PublicEcr(_)));
        assert!(matches!(parse("ghcr.io/a/web"), ImageRepository::Elsewhere(_)));
        assert_eq!(parse("team/web"), ImageRepository::Bare("team/web".to_owned()));
        assert_eq!(parse("team/web").engine_name(), "local.invalid/team/web");
        assert_eq!(parse("ghcr.io/a/web").engine_name(), "ghcr.io/a/web");
        assert!(ImageRepository::parse("ghcr.io/a/web:1").is_err());
    }

    #[test]
    fn references_name_a_repository_a_tag_and_a_digest() {
        let parts = |text| {
            let reference = ImageReference::parse(text);
            (reference.repository().unwrap().to_string(), reference.tag_or_digest())
        };
        assert_eq!(parts("nginx"), ("docker.io/library/nginx".to_owned(), "latest"));
        assert_eq!(parts("docker.io/nginx:1"), ("docker.io/library/nginx".to_owned(), "1"));
        assert_eq!(parts("team/web:1"), ("docker.io/team/web".to_owned(), "1"));
        assert_eq!(parts("r.example:5000/web"), ("r.example:5000/web".to_owned(), "latest"));
        assert_eq!(parts("r.example/web:1@sha256:0"), ("r.example/web".to_owned(), "sha256:0"));
    }

    #[test]
    fn hosts_of_ecr_are_known() {
        let region = |host: &str| EcrRegistry::parse(host).map(|registry| registry.region);
        let account = "123456789012.dkr.ecr";
        assert_eq!(region(&format!("{account}.eu-west-1.amazonaws.com")).unwrap(), "eu-west-1");
        assert_eq!(region(&format!("{account}-fips.us-east-1.amazonaws.com")).unwrap(), "us-east-1");
        assert_eq!(region(&format!("{account}.cn-north-1.amazonaws.com.cn")).unwrap(), "cn-north-1");
        assert_eq!(region("public.ecr.aws"), None);
        assert_eq!(region("12.dkr.ecr.eu-west-1.amazonaws.com"), None);
        assert_eq!(region(&format!("{account}.evil.example.amazonaws.com")), None);
    }
}
