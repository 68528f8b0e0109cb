//! Amazon Elastic Container Registry: logins, repositories and image scans.

use super::{Aws, AwsError};
use crate::secret::{Login, Secret};
use aws_sdk_ecr::operation::describe_image_scan_findings::DescribeImageScanFindingsError;
use aws_sdk_ecr::types::{
    EnhancedImageScanFinding, FindingSeverity, ImageIdentifier, ImageScanFinding, ImageScanFindings,
    ImageScanningConfiguration, ImageTagMutability, ScanStatus,
};
use base64::Engine;

/// The region of ECR Public's API: <https://docs.aws.amazon.com/general/latest/gr/ecr-public.html>.
const ECR_PUBLIC_REGION: &str = "us-east-1";

/// The settings of a repository to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NewRepository {
    /// Images are scanned when they are pushed.
    pub(crate) scan_on_push: bool,
    /// Tags are immutable.
    pub(crate) immutable: bool,
    /// ECR's JSON document with the rules for expiring images.
    pub(crate) lifecycle_policy: Option<String>,
}

/// The state of an image's vulnerability scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Not complete; with ECR's description.
    InProgress(String),
    /// Not scanned. Without scan on push, ECR starts no scan automatically.
    NotStarted,
    /// The findings of a complete scan.
    Findings(Vec<Finding>),
    /// The scan failed or is unsupported; with ECR's description.
    Unavailable(String),
}

/// A vulnerability of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) id: String,
    /// `CRITICAL`, `HIGH`, `MEDIUM`, `LOW` or another severity.
    pub(crate) severity: String,
    /// The vulnerable package with its version.
    pub(crate) package: String,
    /// The first version without it, if known.
    pub(crate) fixed_in: Option<String>,
}

impl Aws {
    /// A login for the region's registries, valid for twelve hours.
    pub(crate) async fn ecr_login(&self) -> Result<Login, AwsError> {
        const ACTION: &str = "ecr:GetAuthorizationToken";
        let answer = client!(aws_sdk_ecr, self)
            .get_authorization_token()
            .send()
            .await
            .map_err(|failed| self.error(ACTION, "*", failed))?;
        let token = answer.authorization_data().first().and_then(|data| data.authorization_token());
        login(token).ok_or_else(|| AwsError::without(ACTION, "token"))
    }

    /// A login for ECR Public, which has its API in one region only, and its own permissions.
    pub(crate) async fn ecr_public_login(&self) -> Result<Login, AwsError> {
        const ACTION: &str = "ecr-public:GetAuthorizationToken";
        let answer = aws_sdk_ecrpublic::Client::new(&self.in_region(ECR_PUBLIC_REGION).config)
            .get_authorization_token()
            .send()
            .await
            .map_err(|failed| self.error(ACTION, "*", failed))?;
        let token = answer.authorization_data().and_then(|data| data.authorization_token());
        login(token).ok_or_else(|| AwsError::without(ACTION, "token"))
    }

    /// The address (`HOST/NAME`) of a repository. Returns `None` if there is no repository with this name.
    pub(crate) async fn ecr_repository(&self, name: &str) -> Result<Option<String>, AwsError> {
        let answer = client!(aws_sdk_ecr, self).describe_repositories().repository_names(name).send().await;
        match answer {
            Ok(answer) => Ok(answer
                .repositories()
                .first()
                .and_then(|repository| repository.repository_uri())
                .map(ToOwned::to_owned)),
            Err(failed)
                if failed
                    .as_service_error()
                    .is_some_and(aws_sdk_ecr::operation::describe_repositories::DescribeRepositoriesError::is_repository_not_found_exception) =>
            {
                Ok(None)
            }
            Err(failed) => Err(self.error("ecr:DescribeRepositories", &self.repository_arn(name), failed)),
        }
    }

    fn repository_arn(&self, name: &str) -> String {
        self.arn("ecr", &format!("repository/{name}"))
    }

    /// Creates a repository and returns its address.
    pub(crate) async fn ecr_create_repository(
        &self,
        name: &str,
        new: &NewRepository,
    ) -> Result<String, AwsError> {
        const ACTION: &str = "ecr:CreateRepository";
        let client = client!(aws_sdk_ecr, self);
        let mut request = client.create_repository().repository_name(name);
        if new.scan_on_push {
            let scanning = ImageScanningConfiguration::builder().scan_on_push(true).build();
            request = request.image_scanning_configuration(scanning);
        }
        if new.immutable {
            request = request.image_tag_mutability(ImageTagMutability::Immutable);
        }
        let answer =
            request.send().await.map_err(|failed| self.error(ACTION, &self.repository_arn(name), failed))?;
        let address = answer
            .repository
            .and_then(|repository| repository.repository_uri)
            .ok_or_else(|| AwsError::without(ACTION, "address"))?;
        self.made(name);
        if let Some(policy) = &new.lifecycle_policy {
            let request = client.put_lifecycle_policy().repository_name(name).lifecycle_policy_text(policy);
            let answer = request.send().await;
            answer
                .map_err(|failed| self.error("ecr:PutLifecyclePolicy", &self.repository_arn(name), failed))?;
        }
        Ok(address)
    }

    /// The time at which an image was pushed. Returns `None` if ECR does not report it.
    pub(crate) async fn ecr_pushed_at(&self, name: &str, digest: &str) -> Option<jiff::Timestamp> {
        let id = ImageIdentifier::builder().image_digest(digest).build();
        let request = client!(aws_sdk_ecr, self).describe_images();
        let answer = request.repository_name(name).image_ids(id).send().await.ok()?;
        let pushed = answer.image_details().first()?.image_pushed_at()?;
        jiff::Timestamp::from_second(pushed.secs()).ok()
    }

    /// The state of an image's scan: of basic scanning, or of enhanced scanning by Amazon Inspector.
    pub(crate) async fn ecr_scan(&self, name: &str, digest: &str) -> Result<Scan, AwsError> {
        let client = client!(aws_sdk_ecr, self);
        let mut found = Vec::new();
        let mut next = None;
        loop {
            let id = ImageIdentifier::builder().image_digest(digest).build();
            let request = client.describe_image_scan_findings().repository_name(name).image_id(id);
            let answer = match request.set_next_token(next).send().await {
                Ok(answer) => answer,
                Err(failed) => {
                    let service = failed.as_service_error();
                    if service.is_some_and(DescribeImageScanFindingsError::is_scan_not_found_exception) {
                        return Ok(Scan::NotStarted);
                    }
                    // ECR may report a new image with some delay.
                    if service.is_some_and(DescribeImageScanFindingsError::is_image_not_found_exception) {
                        return Ok(Scan::InProgress("the image is not known yet".to_owned()));
                    }
                    return Err(self.error(
                        "ecr:DescribeImageScanFindings",
                        &self.repository_arn(name),
                        failed,
                    ));
                }
            };
            let state = answer.image_scan_status();
            let status = state.and_then(|state| state.status()).map_or("PENDING", ScanStatus::as_str);
            let words = state.and_then(|state| state.description()).unwrap_or(status).to_owned();
            match status {
                "COMPLETE" | "ACTIVE" => {}
                "PENDING" | "IN_PROGRESS" => return Ok(Scan::InProgress(words)),
                _ => return Ok(Scan::Unavailable(format!("{status}: {words}"))),
            }
            let findings = answer.image_scan_findings();
            // The status may be COMPLETE or ACTIVE before the first findings appear (aws/aws-sdk#289).
            let is_scanned = findings.is_some_and(|findings| findings.image_scan_completed_at().is_some());
            found.extend(findings.into_iter().flat_map(ImageScanFindings::findings).map(basic));
            let enhanced = findings.into_iter().flat_map(ImageScanFindings::enhanced_findings);
            // The account suppressed these on purpose.
            found.extend(
                enhanced.filter(|finding| finding.status() != Some("SUPPRESSED")).map(self::enhanced),
            );
            if !is_scanned && found.is_empty() {
                return Ok(Scan::InProgress(words));
            }
            next = answer.next_token().map(ToOwned::to_owned);
            if next.is_none() {
                return Ok(Scan::Findings(found));
            }
        }
    }

    /// Starts a basic scan, unless ECR scans automatically or has scanned the image in the last 24 hours.
    pub(crate) async fn ecr_start_scan(&self, name: &str, digest: &str) -> Result<(), AwsError> {
        let id = ImageIdentifier::builder().image_digest(digest).build();
        let request = client!(aws_sdk_ecr, self).start_image_scan();
        let answer = request.repository_name(name).image_id(id).send().await;
        match answer {
            Err(failed)
                if failed.as_service_error().is_some_and(|error| {
                    error.is_limit_exceeded_exception() || error.is_validation_exception()
                }) =>
            {
                Ok(())
            }
            answer => answer
                .map(drop)
                .map_err(|failed| self.error("ecr:StartImageScan", &self.repository_arn(name), failed)),
        }
    }
}

/// The login in an authorization token.
fn login(token: Option<&str>) -> Option<Login> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(token?).ok()?;
    let pair = String::from_utf8(bytes).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(Login { user: user.to_owned(), password: Secret::new(password) })
}

fn basic(finding: &ImageScanFinding) -> Finding {
    let attribute = |key: &str| {
        let found = finding.attributes().iter().find(|attribute| attribute.key() == key);
        found.and_then(|attribute| attribute.value()).map(ToOwned::to_owned)
    };
    let package = [attribute("package_name"), attribute("package_version")];
    Finding {
        id: finding.name().unwrap_or("?").to_owned(),
        severity: finding.severity().map_or("UNDEFINED", FindingSeverity::as_str).to_owned(),
        package: package.into_iter().flatten().collect::<Vec<_>>().join(" "),
        fixed_in: attribute("fixed_in_version"),
    }
}

fn enhanced(finding: &EnhancedImageScanFinding) -> Finding {
    let details = finding.package_vulnerability_details();
    let package = details.and_then(|details| details.vulnerable_packages().first());
    let name = package.map(|package| {
        [package.name(), package.version()].into_iter().flatten().collect::<Vec<_>>().join(" ")
    });
    let id = details.and_then(|details| details.vulnerability_id()).or(finding.title());
    Finding {
        id: id.unwrap_or("?").to_owned(),
        severity: finding.severity().unwrap_or("UNTRIAGED").to_owned(),
        package: name.unwrap_or_default(),
        fixed_in: package.and_then(|package| package.fixed_in_version()).map(ToOwned::to_owned),
    }
}
