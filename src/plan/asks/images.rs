//! The asks of the steps that build, test and push images.

use super::{
    Ask, AskKind, AskList, CACHE_TAG, Change, Direction, Location, RepositoryName, SOURCE_TAG, Unknowns,
};
use crate::address::{EcrRegistry, ImageReference, Repository, is_ecr_public};
use crate::language::pipeline::model::{CacheTo, Image, Name, Step, Test};
use crate::plan::resource::Resource;

/// The scheme of a named context that is an image.
const IMAGE_CONTEXT: &str = "docker-image://";

/// The registry of names without a host.
const HUB: &str = "docker.io";

/// The repository of an image.
pub(super) struct RepositoryTarget {
    /// The address in the registry.
    address: String,
    name: RepositoryName,
    /// The repository in ECR; absent for other registries.
    pub(super) arn: Option<Resource>,
    /// The repository in ECR Public; absent for other registries.
    public: Option<Resource>,
    /// The file names the registry.
    is_full: bool,
}

impl<'a> AskList<'a> {
    pub(super) fn image(&self, name: &Name) -> Option<&'a Image> {
        self.pipeline.images.get(&name.value)
    }

    pub(super) fn build(&self, images: &[Name], step: &Step, location: &Location<'a>) -> Vec<Ask<'a>> {
        let mut asks = vec![engine()];
        for name in &self.pipeline.in_order(images, &|_| false) {
            let Some(image) = self.image(name) else { continue };
            let target = self.repository(image, step, location);
            cache(image, &target, location, &mut asks);
            asks.extend(look_up(image, &target, location));
            let text = |template| self.text(template, Some(&step.env));
            let caches = image.cache_from.iter().map(text);
            let contexts = image
                .contexts
                .values()
                .filter_map(|context| text(context).strip_prefix(IMAGE_CONTEXT).map(ToOwned::to_owned));
            let bases = self.facts.base_images.get(&name.value).into_iter().flatten().cloned();
            asks.extend(caches.chain(bases).chain(contexts).map(|source| pull(&source, location)));
        }
        asks
    }

    /// The images of the test's services are pulled, except those of the pipeline itself.
    pub(super) fn test(&self, test: &Test, step: &Step, location: &Location<'a>) -> Vec<Ask<'a>> {
        let recorded = self
            .image(&test.image)
            .map(|image| record(image, &self.repository(image, step, location), location))
            .unwrap_or_default();
        let images = test.services.values().map(|service| self.text(&service.image, Some(&step.env)));
        let others = images.filter(|image| !self.pipeline.images.contains_key(image));
        let pulls = others.map(|image| pull(&image, location));
        [engine()].into_iter().chain(recorded).chain(pulls).collect()
    }

    pub(super) fn push(&self, images: &[Name], step: &Step, location: &Location<'a>) -> Vec<Ask<'a>> {
        let mut asks = vec![engine()];
        for name in images {
            if let Some(image) = self.image(name) {
                let target = self.repository(image, step, location);
                self.push_image(image, &target, step, location, &mut asks);
                asks.extend(record(image, &target, location));
            }
        }
        asks
    }

    pub(super) fn repository(&self, image: &Image, step: &Step, location: &Location<'a>) -> RepositoryTarget {
        let name = self.text(&image.repository, Some(&step.env));
        let outside = |arn, is_full| RepositoryTarget {
            address: name.clone(),
            name: repository_name(&name),
            arn,
            public: in_ecr_public(&name, location),
            is_full,
        };
        match (in_ecr(&name), Repository::parse(&name)) {
            // The first part may be a registry or a part of the name.
            _ if self.unknowns == Unknowns::Patterns && name.starts_with("*/") => {
                outside(Some(location.resource("ecr", format!("repository/*{}", &name[2..]))), false)
            }
            (Some(arn), _) => outside(Some(arn), true),
            (None, Ok(Some(_))) => outside(None, true),
            (None, Err(_)) if self.unknowns == Unknowns::LeftOut => outside(None, true),
            // A registry whose name is unknown before the run.
            (None, _) if name.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':', '$'])) => {
                outside(None, true)
            }
            (None, _) => {
                let fill = self.fill();
                let account = location.account.as_deref().unwrap_or(fill.account);
                let region = location.region.as_deref().unwrap_or(fill.region);
                RepositoryTarget {
                    address: format!("{}/{name}", EcrRegistry::host(account, region)),
                    arn: Some(location.resource("ecr", format!("repository/{name}"))),
                    name: RepositoryName { host: None, path: name },
                    public: None,
                    is_full: false,
                }
            }
        }
    }

    fn push_image(
        &self,
        image: &Image,
        target: &RepositoryTarget,
        step: &Step,
        location: &Location<'a>,
        asks: &mut Vec<Ask<'a>>,
    ) {
        let transfer = Direction::Push { creates: image.create.is_some() };
        let push = |change, actions: &[&'static str]| Ask {
            change: Some(change),
            ..target.transfer(transfer, actions, location)
        };
        if let Some(arn) = &target.arn {
            if !target.is_full || image.create.is_some() {
                asks.push(location.ask([("ecr:DescribeRepositories", arn.clone())]));
            }
            if let Some(create) = &image.create {
                let condition = Some("if the repository does not exist");
                asks.push(location.change("ecr:CreateRepository", arn.clone(), condition, self.fill()));
                if create.lifecycle_policy.is_some() {
                    let action = "ecr:PutLifecyclePolicy";
                    asks.push(location.change(action, arn.clone(), condition, self.fill()));
                }
            }
            asks.push(location.ask([("ecr:GetAuthorizationToken", Resource::Any)]));
        }
        asks.extend(target.public_token(location));
        if target.arn.is_some() || target.public.is_some() {
            asks.push(target.transfer(transfer, &["ecr:BatchCheckLayerAvailability"], location));
        }
        let blobs = Change {
            action: "registry:UploadBlobs",
            target: target.address.clone(),
            condition: Some("those that the registry does not have"),
        };
        let upload = ["ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload"];
        asks.push(push(blobs, &upload));
        let mut tags: Vec<String> = Vec::new();
        for tag in &image.tags {
            let tag = self.text(tag, Some(&step.env));
            if !tags.contains(&tag) {
                asks.push(push(manifest(target, &tag, None), &["ecr:PutImage"]));
                tags.push(tag);
            }
        }
        // Layers of earlier images are not sent again, and the registry's copy is compared with what was pushed.
        let read = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:ListImages"];
        asks.push(target.transfer(Direction::Pull, &read, location));
        if let (Some(arn), Some(_)) = (&target.arn, &image.scan) {
            let actions = ["ecr:DescribeImageScanFindings", "ecr:StartImageScan"];
            asks.push(location.ask(actions.map(|action| (action, arn.clone()))));
        }
    }
}

impl RepositoryTarget {
    /// A transfer, with the permissions that it needs in ECR.
    fn transfer<'a>(
        &self,
        transfer: Direction,
        actions: &[&'static str],
        location: &Location<'a>,
    ) -> Ask<'a> {
        let Some(public) = &self.public else {
            return registry(transfer, self.name.clone(), self.arn.as_ref(), actions, location);
        };
        let actions: Vec<&'static str> = actions.iter().filter_map(|action| public_action(action)).collect();
        // Everyone may pull.
        let arn = Some(public).filter(|_| !actions.is_empty());
        registry(transfer, self.name.clone(), arn, &actions, location)
    }

    /// The token for pushes to ECR Public, which is a bearer token of AWS.
    fn public_token<'a>(&self, location: &Location<'a>) -> Option<Ask<'a>> {
        self.public.as_ref()?;
        let actions = ["ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken"];
        Some(location.ask(actions.map(|action| (action, Resource::Any))))
    }
}

/// The build cache of an image is read from its repository, and written there if the engine can.
fn cache<'a>(image: &Image, target: &RepositoryTarget, location: &Location<'a>, asks: &mut Vec<Ask<'a>>) {
    if image.cache_to == CacheTo::None {
        return;
    }
    asks.extend(describe(target, location));
    asks.push(target.transfer(
        Direction::Pull,
        &["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        location,
    ));
    if image.cache_to == CacheTo::Registry {
        let actions = [
            "ecr:BatchCheckLayerAvailability",
            "ecr:InitiateLayerUpload",
            "ecr:UploadLayerPart",
            "ecr:CompleteLayerUpload",
            "ecr:PutImage",
        ];
        let condition = Some("if the engine writes its cache to registries");
        let push = target.transfer(Direction::Push { creates: false }, &actions, location);
        asks.push(Ask { change: Some(manifest(target, CACHE_TAG, condition)), ..push });
    }
}

/// `skip-unchanged` looks for an image of the same sources.
fn look_up<'a>(image: &Image, target: &RepositoryTarget, location: &Location<'a>) -> Vec<Ask<'a>> {
    if !image.skip_unchanged {
        return Vec::new();
    }
    let mut asks: Vec<Ask<'a>> = describe(target, location).into_iter().collect();
    asks.extend(target.public_token(location));
    asks.push(target.transfer(Direction::Pull, &["ecr:BatchGetImage"], location));
    asks
}

/// `skip-unchanged` tags an image that has passed its tests with the fingerprint of its sources.
fn record<'a>(image: &Image, target: &RepositoryTarget, location: &Location<'a>) -> Vec<Ask<'a>> {
    let mut asks = look_up(image, target, location);
    if !asks.is_empty() {
        let condition = Some("if all of its tests have passed");
        let push = target.transfer(Direction::Push { creates: false }, &["ecr:PutImage"], location);
        let change = manifest(target, &format!("{SOURCE_TAG}…"), condition);
        asks.push(Ask { change: Some(change), ..push });
    }
    asks
}

/// ECR provides the address of the repository and a token for its registry.
fn describe<'a>(target: &RepositoryTarget, location: &Location<'a>) -> Option<Ask<'a>> {
    let arn = target.arn.clone()?;
    Some(location.ask([("ecr:DescribeRepositories", arn), ("ecr:GetAuthorizationToken", Resource::Any)]))
}

fn manifest(target: &RepositoryTarget, tag: &str, condition: Option<&'static str>) -> Change {
    let target = format!("{}:{tag}", target.address);
    Change { action: "registry:PutManifest", target, condition }
}

/// Pulls an image by its name, which may have a tag or a digest.
pub(super) fn pull<'a>(image: &str, location: &Location<'a>) -> Ask<'a> {
    let name = ImageReference::parse(image).name;
    let arn = in_ecr(name);
    let mut repository = repository_name(name);
    repository.host.get_or_insert_with(|| HUB.to_owned());
    let actions = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"];
    let mut ask = registry(Direction::Pull, repository, arn.as_ref(), &actions, location);
    if arn.is_some() {
        ask.permissions.insert(0, ("ecr:GetAuthorizationToken", Resource::Any));
    }
    ask
}

/// A transfer. Only ECR needs permissions and the step's access to AWS.
fn registry<'a>(
    transfer: Direction,
    repository: RepositoryName,
    arn: Option<&Resource>,
    actions: &[&'static str],
    location: &Location<'a>,
) -> Ask<'a> {
    let permissions = arn.into_iter().flat_map(|arn| actions.iter().map(|action| (*action, arn.clone())));
    let kind = AskKind::Registry { transfer, repository };
    match arn {
        Some(_) => Ask { kind, ..location.ask(permissions) },
        None => outside_aws(kind),
    }
}

fn engine<'a>() -> Ask<'a> {
    outside_aws(AskKind::DockerEngine)
}

fn outside_aws<'a>(kind: AskKind) -> Ask<'a> {
    Ask { kind, change: None, permissions: Vec::new(), passes: Vec::new(), access: None, role: None }
}

/// A repository's address in its parts.
fn repository_name(name: &str) -> RepositoryName {
    match name.split_once('/') {
        Some((host, path)) if host == "localhost" || host.contains(['.', ':', '$']) => {
            RepositoryName { host: Some(host.to_owned()), path: path.to_owned() }
        }
        _ => RepositoryName { host: None, path: name.to_owned() },
    }
}

/// The repository of an address in ECR. Absent for other registries. Account and region may be unknown.
fn in_ecr(address: &str) -> Option<Resource> {
    let (host, path) = address.split_once('/')?;
    let (account, region) = EcrRegistry::parts(host)?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let known = |text: &str| (!text.is_empty() && plain(text)).then(|| text.to_owned());
    let (region, account) = (known(region), known(account));
    Some(Resource::Made {
        service: "ecr",
        region,
        global: false,
        account,
        name: format!("repository/{path}"),
    })
}

/// The repository of an address in ECR Public. Its API has one region, which its ARNs do not name.
fn in_ecr_public(address: &str, location: &Location<'_>) -> Option<Resource> {
    let (host, path) = address.split_once('/')?;
    // The first part is the registry's alias.
    let (_, name) = path.split_once('/')?;
    is_ecr_public(host).then(|| Resource::Made {
        service: "ecr-public",
        region: None,
        global: true,
        account: location.account.clone(),
        name: format!("repository/{name}"),
    })
}

/// The action of ECR Public for a push, which private ECR has as well. Pulls need none.
fn public_action(action: &str) -> Option<&'static str> {
    [
        "ecr-public:BatchCheckLayerAvailability",
        "ecr-public:InitiateLayerUpload",
        "ecr-public:UploadLayerPart",
        "ecr-public:CompleteLayerUpload",
        "ecr-public:PutImage",
    ]
    .into_iter()
    .find(|public| public.split(':').nth(1) == action.split(':').nth(1))
}
