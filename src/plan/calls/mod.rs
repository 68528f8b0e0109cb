//! What steps ask of AWS and of registries: the calls that change something, for `runner plan`, and the permissions that
//! all of them need, for `runner iam` and `runner doctor`. One list serves these; that the engine keeps to it is tested against
//! recorded calls.
//!
//! Source of actions and resource types: the service authorization reference of AWS.

mod ecs;

use super::facts::Facts;
use super::resource::{Fill, Resource};
use super::scope::Values;
use crate::address::{Arn, EcrRegistry, ImageReference, Repository, split_parameter, split_secret};
use crate::language::pipeline::model::{
    Action, AwsAccess, CacheTo, Image, Name, Notify, NotifyTarget, Pipeline, Step, Test,
};
use crate::language::pipeline::template::{Builtin, Reference, Template};
use indexmap::IndexMap;

/// The tag of a build cache in a registry.
pub(crate) const CACHE_TAG: &str = "buildcache";

/// What tags with the fingerprint of an image's sources begin with.
pub(crate) const SOURCE_TAG: &str = "runner-source-";

/// Something that a step asks of the world outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// What changes, where something does.
    pub(crate) change: Option<Change>,
    /// What has to be allowed: action and resource.
    pub(crate) permissions: Vec<(&'static str, Resource)>,
    /// The roles that it passes on, and to which service.
    pub(crate) passes: Vec<(Resource, &'static str)>,
    /// The role under which it happens: the build's own where absent.
    pub(crate) role: Option<String>,
}

/// A call that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The action: as IAM spells it, or `registry:UploadBlobs` and `registry:PutManifest`.
    pub(crate) action: &'static str,
    pub(crate) target: String,
    /// When it happens, where it does not always.
    pub(crate) condition: Option<&'static str>,
}

/// How values are written that are not known before the build runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknowns {
    /// As the file writes them: `${source.branch}`.
    Written,
    /// As `*`: the names are patterns of IAM, for every build of this pipeline.
    Patterns,
}

/// Finds the calls of a pipeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pipeline: &'a Pipeline,
    values: &'a Values,
    facts: &'a Facts,
    unknowns: Unknowns,
    region: Option<&'a str>,
    account: Option<&'a str>,
}

/// Where the calls of a step go.
struct Place {
    region: Option<String>,
    account: Option<String>,
    /// The role that is assumed, as the file writes it where it is not known.
    role: Option<String>,
    /// What has to be allowed to assume it.
    role_resource: Option<Resource>,
}

impl Place {
    fn made(&self, service: &'static str, name: impl Into<String>) -> Resource {
        Resource::Made {
            service,
            region: self.region.clone(),
            global: false,
            account: self.account.clone(),
            name: name.into(),
        }
    }

    /// `text` where it is an ARN, and one made of it otherwise.
    fn arn_or(&self, text: String, service: &'static str, name: impl FnOnce(&str) -> String) -> Resource {
        if Arn::is_prefix_of(&text) {
            return Resource::Exact(text);
        }
        let name = name(&text);
        self.made(service, name)
    }

    fn role_named(&self, role: &str) -> Resource {
        if Arn::is_prefix_of(role) {
            return Resource::Exact(role.to_owned());
        }
        Resource::Made {
            service: "iam",
            region: self.region.clone(),
            global: true,
            account: self.account.clone(),
            name: format!("role/{role}"),
        }
    }

    fn call(&self, permissions: impl IntoIterator<Item = (&'static str, Resource)>) -> Call {
        let permissions = permissions.into_iter().collect();
        Call { change: None, permissions, passes: Vec::new(), role: self.role.clone() }
    }

    fn change(
        &self,
        action: &'static str,
        resource: Resource,
        condition: Option<&'static str>,
        fill: Fill<'_>,
    ) -> Call {
        let change = Change { action, target: resource.arn(fill), condition };
        Call { change: Some(change), ..self.call([(action, resource)]) }
    }
}

impl<'a> Caller<'a> {
    /// The last two are the region and the account where the file names none.
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        values: &'a Values,
        facts: &'a Facts,
        unknowns: Unknowns,
        (region, account): (Option<&'a str>, Option<&'a str>),
    ) -> Self {
        Self { pipeline, values, facts, unknowns, region, account }
    }

    fn fill(&self) -> Fill<'static> {
        match self.unknowns {
            Unknowns::Written => Fill { partition: None, region: "REGION", account: "ACCOUNT" },
            Unknowns::Patterns => Fill::ANY,
        }
    }

    /// A template's text, as far as it is known.
    fn text(&self, template: &Template, own: Option<&IndexMap<String, Template>>) -> String {
        if self.unknowns == Unknowns::Written {
            return self.values.known(template, own);
        }
        template.render(escaped, |reference, _| match reference {
            // What the file says for all builds.
            Reference::Env(name) => {
                let own = own.and_then(|own| own.get(name));
                let value = own.or_else(|| self.pipeline.env.variables.get(name));
                value.and_then(Template::as_literal).map_or_else(|| "*".to_owned(), |value| escaped(&value))
            }
            Reference::Builtin(Builtin::AwsRegion) => self.region.unwrap_or("*").to_owned(),
            Reference::Builtin(Builtin::AwsAccount) => self.account.unwrap_or("*").to_owned(),
            Reference::Builtin(_) => "*".to_owned(),
        })
    }

    fn place(&self, access: &AwsAccess) -> Place {
        let role =
            access.role_arn.as_ref().map(|role| (self.values.known(role, None), self.text(role, None)));
        let account = role.as_ref().and_then(|(_, arn)| Arn::parse(arn)?.account());
        let account = account.filter(|account| account.bytes().all(|byte| byte.is_ascii_digit()));
        let role_resource = role.as_ref().map(|(_, arn)| {
            if Arn::is_prefix_of(arn) {
                return Resource::Exact(arn.clone());
            }
            // Whichever it will be.
            let name = "role/*".to_owned();
            Resource::Made { service: "iam", region: None, global: true, account: None, name }
        });
        let region =
            access.region.as_ref().map(|region| self.text(region, None)).filter(|region| region != "*");
        Place {
            region: region.or_else(|| self.region.map(ToOwned::to_owned)),
            account: if role.is_some() {
                account.map(ToOwned::to_owned)
            } else {
                self.account.map(ToOwned::to_owned)
            },
            role: role.map(|(written, _)| written),
            role_resource,
        }
    }

    /// What happens before the first step: secrets are fetched.
    pub(crate) fn at_start(&self) -> Vec<Call> {
        let env = &self.pipeline.env;
        let place = self.place(&self.pipeline.aws);
        let mut calls = Vec::new();
        for parameter in env.parameter_store.values() {
            let text = self.text(parameter, None);
            // A version or a label is no part of the name.
            let name = split_parameter(&text).0.to_owned();
            let resource =
                place.arn_or(name, "ssm", |name| format!("parameter/{}", name.trim_start_matches('/')));
            calls.push(place.call([("ssm:GetParameter", resource)]));
        }
        for secret in env.secrets_manager.values() {
            let text = self.text(secret, None);
            let id = split_secret(&text).0.to_owned();
            // ARNs of secrets end in six random characters, which people leave out.
            let is_whole = id.rsplit_once('-').is_some_and(|(_, random)| {
                // Six small letters are rather a word of the name.
                random.len() == 6
                    && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
                    && !random.bytes().all(|byte| byte.is_ascii_lowercase())
            });
            let id = if Arn::is_prefix_of(&id) && !is_whole { format!("{id}-??????") } else { id };
            let resource = place.arn_or(id, "secretsmanager", |name| format!("secret:{name}-??????"));
            calls.push(place.call([("secretsmanager:GetSecretValue", resource)]));
        }
        Self::assume(&place, &mut calls);
        calls
    }

    /// What a notification asks of AWS.
    pub(crate) fn notification(&self, notify: &Notify) -> Vec<Call> {
        let NotifyTarget::Sns(topic) = &notify.target else {
            return Vec::new();
        };
        let place = self.place(&self.pipeline.aws);
        let topic = place.arn_or(self.text(topic, None), "sns", ToOwned::to_owned);
        vec![place.change("sns:Publish", topic, None, self.fill())]
    }

    /// The calls of a step, in the order in which it makes them. A parallel group has none of its own.
    pub(crate) fn step(&self, step: &Step) -> Vec<Call> {
        let place = self.place(step.aws.as_ref().unwrap_or(&self.pipeline.aws));
        let mut calls = match &step.action {
            Action::Build(images) => self.build(images, step, &place),
            Action::Push(images) => self.push(images, step, &place),
            Action::TaskDefinition(definition) => self.task_definition(definition, step, &place),
            Action::RunTask(task) => self.run_task(task, step, &place),
            Action::Deploy(deploy) => self.deploy(deploy, step, &place),
            // A command that is given a role needs the role, and what it does with it is its own.
            Action::Run(_) if step.aws.is_some() => vec![place.call([])],
            Action::Test(test) => self.test(test, step, &place),
            Action::Run(_) | Action::ImageDefinitions(_) | Action::Parallel(_) => Vec::new(),
        };
        Self::assume(&place, &mut calls);
        calls
    }

    /// A role that is assumed has to be allowed to the build's own role.
    fn assume(place: &Place, calls: &mut Vec<Call>) {
        if let (Some(role), false) = (&place.role_resource, calls.is_empty()) {
            let permissions = vec![("sts:AssumeRole", role.clone())];
            calls.insert(0, Call { change: None, permissions, passes: Vec::new(), role: None });
        }
    }

    fn image(&self, name: &Name) -> Option<&'a Image> {
        self.pipeline.images.get(&name.value)
    }

    fn build(&self, images: &[Name], step: &Step, place: &Place) -> Vec<Call> {
        let mut calls = Vec::new();
        for name in &self.pipeline.in_order(images, &|_| false) {
            let Some(image) = self.image(name) else { continue };
            self.cache(image, step, place, &mut calls);
            calls.extend(self.looked_up(image, step, place));
            let caches = image.cache_from.iter().map(|cache| self.text(cache, Some(&step.env)));
            let bases = self.facts.base_images.get(&name.value).into_iter().flatten().cloned();
            calls.extend(caches.chain(bases).filter_map(|source| pull(&source, place)));
        }
        calls
    }

    /// The cache beside the image is read from its repository, and written there where the engine can.
    fn cache(&self, image: &Image, step: &Step, place: &Place, calls: &mut Vec<Call>) {
        if image.cache_to == CacheTo::None {
            return;
        }
        let (address, Some(arn), _) = self.repository(image, step, place) else { return };
        calls.push(place.call([
            ("ecr:DescribeRepositories", arn.clone()),
            ("ecr:GetAuthorizationToken", Resource::Any),
            ("ecr:BatchGetImage", arn.clone()),
            ("ecr:GetDownloadUrlForLayer", arn.clone()),
        ]));
        if image.cache_to == CacheTo::Registry {
            let actions = [
                "ecr:BatchCheckLayerAvailability",
                "ecr:InitiateLayerUpload",
                "ecr:UploadLayerPart",
                "ecr:CompleteLayerUpload",
                "ecr:PutImage",
            ];
            let change = Change {
                action: "registry:PutManifest",
                target: format!("{address}:{CACHE_TAG}"),
                condition: Some("where the engine writes its cache to registries"),
            };
            let permissions = actions.map(|action| (action, arn.clone()));
            calls.push(Call { change: Some(change), ..place.call(permissions) });
        }
    }

    /// Whether an image of the same sources is in the repository.
    fn looked_up(&self, image: &Image, step: &Step, place: &Place) -> Option<Call> {
        let (_, arn, _) = self.repository(image, step, place);
        let arn = arn.filter(|_| image.skip_unchanged)?;
        Some(place.call([
            ("ecr:DescribeRepositories", arn.clone()),
            ("ecr:GetAuthorizationToken", Resource::Any),
            ("ecr:BatchGetImage", arn),
        ]))
    }

    /// The fingerprint of an image's sources, beside an image that has passed its tests.
    fn recorded(&self, image: &Image, step: &Step, place: &Place) -> Vec<Call> {
        let Some(mut call) = self.looked_up(image, step, place) else { return Vec::new() };
        let (address, arn, _) = self.repository(image, step, place);
        call.permissions.extend(arn.map(|arn| ("ecr:PutImage", arn)));
        let target = format!("{address}:{SOURCE_TAG}…");
        let condition = Some("where all of its tests have passed");
        call.change = Some(Change { action: "registry:PutManifest", target, condition });
        vec![call]
    }

    /// The images of the test's services are pulled; those of the pipeline itself are there.
    fn test(&self, test: &Test, step: &Step, place: &Place) -> Vec<Call> {
        let recorded =
            self.image(&test.image).map(|image| self.recorded(image, step, place)).unwrap_or_default();
        let images = test.services.values().map(|service| self.text(&service.image, Some(&step.env)));
        let others = images.filter(|image| !self.pipeline.images.contains_key(image));
        recorded.into_iter().chain(others.filter_map(|image| pull(&image, place))).collect()
    }

    fn push(&self, images: &[Name], step: &Step, place: &Place) -> Vec<Call> {
        let mut calls = Vec::new();
        for name in images {
            if let Some(image) = self.image(name) {
                self.push_one(image, step, place, &mut calls);
                calls.extend(self.recorded(image, step, place));
            }
        }
        calls
    }

    /// An image's address in its registry, the ARN where that is ECR, and whether the file says all of it.
    fn repository(&self, image: &Image, step: &Step, place: &Place) -> (String, Option<Resource>, bool) {
        let name = self.text(&image.repository, Some(&step.env));
        match (in_ecr(&name), Repository::parse(&name)) {
            // The beginning may be a registry or a part of the name.
            _ if self.unknowns == Unknowns::Patterns && name.starts_with("*/") => {
                (name.clone(), Some(place.made("ecr", format!("repository/*{}", &name[2..]))), false)
            }
            (Some(arn), _) => (name.clone(), Some(arn), true),
            (None, Ok(Some(_))) => (name.clone(), None, true),
            // A registry whose name is known only when the build runs.
            (None, _) if name.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':', '$'])) => {
                (name.clone(), None, true)
            }
            (None, _) => {
                let fill = self.fill();
                let account = place.account.as_deref().unwrap_or(fill.account);
                let region = place.region.as_deref().unwrap_or(fill.region);
                let address = format!("{}/{name}", EcrRegistry::host(account, region));
                (address, Some(place.made("ecr", format!("repository/{name}"))), false)
            }
        }
    }

    fn push_one(&self, image: &Image, step: &Step, place: &Place, calls: &mut Vec<Call>) {
        let own = Some(&step.env);
        let (address, arn, is_full) = self.repository(image, step, place);
        let registry = |action, target: String, condition, actions: &[&'static str]| {
            let permissions = arn.iter().flat_map(|arn| actions.iter().map(|action| (*action, arn.clone())));
            let change = Some(Change { action, target, condition });
            Call { change, ..place.call(permissions) }
        };
        if let Some(arn) = &arn {
            if !is_full || image.create.is_some() {
                calls.push(place.call([("ecr:DescribeRepositories", arn.clone())]));
            }
            if let Some(create) = &image.create {
                let condition = Some("where the repository does not exist");
                calls.push(place.change("ecr:CreateRepository", arn.clone(), condition, self.fill()));
                if create.lifecycle_policy.is_some() {
                    calls.push(place.change("ecr:PutLifecyclePolicy", arn.clone(), condition, self.fill()));
                }
            }
            calls.push(place.call([("ecr:GetAuthorizationToken", Resource::Any)]));
            calls.push(place.call([("ecr:BatchCheckLayerAvailability", arn.clone())]));
        }
        calls.push(registry(
            "registry:UploadBlobs",
            address.clone(),
            Some("those that the registry does not have"),
            &["ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload"],
        ));
        let mut tags: Vec<String> = Vec::new();
        for tag in &image.tags {
            let tag = self.text(tag, own);
            if !tags.contains(&tag) {
                calls.push(registry(
                    "registry:PutManifest",
                    format!("{address}:{tag}"),
                    None,
                    &["ecr:PutImage"],
                ));
                tags.push(tag);
            }
        }
        if let Some(arn) = &arn {
            // What earlier images tell need not be sent, and what is served afterwards is compared with what was pushed.
            let actions = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:ListImages"];
            calls.push(place.call(actions.map(|action| (action, arn.clone()))));
            if image.scan.is_some() {
                let actions = ["ecr:DescribeImageScanFindings", "ecr:StartImageScan"];
                calls.push(place.call(actions.map(|action| (action, arn.clone()))));
            }
        }
    }
}

/// What pulling an image asks for, where it is in ECR.
fn pull(image: &str, place: &Place) -> Option<Call> {
    let resource = in_ecr(ImageReference::parse(image).name)?;
    Some(place.call([
        ("ecr:GetAuthorizationToken", Resource::Any),
        ("ecr:BatchGetImage", resource.clone()),
        ("ecr:GetDownloadUrlForLayer", resource),
    ]))
}

/// The repository of an address in ECR; nothing for any other address. Account and region may be unknown still.
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

/// A text in which nothing is special to IAM.
fn escaped(text: &str) -> String {
    let escape = |c: char| if "*?$".contains(c) { format!("${{{c}}}") } else { c.to_string() };
    text.chars().map(escape).collect()
}
