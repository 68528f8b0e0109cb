//! The secrets of `env`: fetched from AWS when publishing, read from the environment in local mode, always masked.

use super::Job;
use crate::aws::CALLS_AT_ONCE;
use crate::aws::secrets_manager::SecretId;
use crate::connections::Connections;
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::reference::{SECRET_HELP, SecretReference};
use crate::language::pipeline::template::{Builtin, Reference, Scope, Template};
use crate::plan::{self, Mode};
use crate::secret::{MaybeSecret, Secret, Unmasked};
use futures_util::{StreamExt, TryStreamExt};
use std::collections::HashMap;

/// Sets the values of secret variables, and of the AWS built-ins that the pipeline uses. Returns warnings.
pub(crate) async fn resolve(job: &mut Job, connections: &Connections) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    not_text(job)?;
    let names: Vec<String> = job.project.pipeline.env.secret_names().map(ToOwned::to_owned).collect();
    let (mut parameters, mut secrets) =
        tokio::try_join!(fetch_parameters(job, connections), fetch_secrets(job, connections))?;
    for name in names {
        let fetched = parameters.remove(&name).or_else(|| secrets.remove(&name));
        match fetched.or_else(|| job.values.secret(&name)) {
            Some(secret) => {
                job.values.set(&name, MaybeSecret::Secret(secret.clone()));
                mask(job, &name, &secret, &mut warnings);
            }
            None => warnings
                .push(format!("the secret {name} has no value; set it in --env-file or in the environment")),
        }
    }
    // Variables that the file marks as secrets where it uses them.
    let fetched: Vec<&str> = job.project.pipeline.env.secret_names().collect();
    for name in job.project.pipeline.secret_names().into_iter().filter(|name| !fetched.contains(name)) {
        if let Some(secret) = job.values.secret(name) {
            mask(job, name, &secret, &mut warnings);
        }
    }
    if job.project.mode == Mode::Publish {
        aws_builtins(job, connections).await?;
    }
    Ok(warnings)
}

/// Refuses secrets that are not UTF-8: no mask would find them.
fn not_text(job: &Job) -> Result<(), Failure> {
    let secrets = job.project.pipeline.secret_names();
    let is_secret = |name: &&str| job.project.not_text.iter().any(|(other, _)| other.to_str() == Some(name));
    match secrets.into_iter().find(is_secret) {
        None => Ok(()),
        Some(name) => {
            Err(Failure::usage(format!("the secret {name} is not UTF-8, so it could not be masked"))
                .help("encode it, for example in base64, and decode it where it is used"))
        }
    }
}

fn mask(job: &Job, name: &str, secret: &Secret, warnings: &mut Vec<String>) {
    let public = plan::public_values(&job.project.pipeline, &job.project.context);
    match job.project.masks.add_document(secret, &public) {
        Unmasked::Nothing => {}
        Unmasked::Everything => warnings.push(format!(
            "the secret {name} is not masked: it is shorter than four characters, or only brackets and commas"
        )),
        Unmasked::SomeLines => warnings.push(format!(
            "lines of the secret {name} that are shorter than four characters, or only brackets and commas, are not masked on their own"
        )),
    }
}

/// Whether the value of a variable comes from AWS: it is not set in the environment.
fn is_fetched(job: &Job, variable: &str) -> bool {
    job.project.mode == Mode::Publish && !job.values.is_given(variable)
}

/// Fetches the parameters with few calls, because the quota of calls is small. Returns them by variable.
async fn fetch_parameters(job: &Job, connections: &Connections) -> Result<HashMap<String, Secret>, Failure> {
    let mut wanted = Vec::new();
    for (variable, template) in &job.project.pipeline.env.parameter_store {
        if is_fetched(job, variable) {
            wanted.push((variable, job.project.resolve(&job.values, template)?));
        }
    }
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let aws = connections.aws(&job.project.access(&job.values, &job.project.pipeline.aws)?).await?;
    let names: Vec<&str> = wanted.iter().map(|(_, name)| name.expose()).collect();
    let values = aws.parameters(&names).await?;
    let of = |(variable, name): &(&String, MaybeSecret)| {
        Some(((*variable).clone(), values.get(name.expose())?.clone()))
    };
    Ok(wanted.iter().filter_map(of).collect())
}

/// Fetches the secrets of Secrets Manager, several at once. Returns them by variable.
async fn fetch_secrets(job: &Job, connections: &Connections) -> Result<HashMap<String, Secret>, Failure> {
    let secrets = job.project.pipeline.env.secrets_manager.iter();
    let wanted = secrets.filter(|(variable, _)| is_fetched(job, variable));
    let fetch = |(variable, template)| async move {
        Ok((String::clone(variable), fetch_secret(job, connections, template).await?))
    };
    futures_util::stream::iter(wanted).map(fetch).buffered(CALLS_AT_ONCE).try_collect().await
}

async fn fetch_secret(job: &Job, connections: &Connections, template: &Template) -> Result<Secret, Failure> {
    let aws = connections.aws(&job.project.access(&job.values, &job.project.pipeline.aws)?).await?;
    let text = job.project.resolve(&job.values, template)?;
    let text = text.expose();
    let reference = SecretReference::parse(text).map_err(|reason| {
        job.project.located(&Diagnostic::new(format!("`{text}`: {reason}"), template.span).help(SECRET_HELP))
    })?;
    Ok(aws.secret(&reference.into()).await?)
}

impl From<SecretReference> for SecretId {
    fn from(SecretReference { id, json_key, stage, version }: SecretReference) -> Self {
        Self { id, json_key, stage, version }
    }
}

/// Sets the region and the account if the pipeline uses them and the environment does not set them.
async fn aws_builtins(job: &mut Job, connections: &Connections) -> Result<(), Failure> {
    let uses = |builtin: Builtin| {
        let reference = Reference::Builtin(builtin);
        job.project.pipeline.uses.iter().any(|used| used.reference == reference)
            && job.values.value(&reference).is_none()
    };
    let (region, account) = (uses(Builtin::AwsRegion), uses(Builtin::AwsAccount));
    if region || account {
        let aws = connections.aws(&job.project.access(&job.values, &job.project.pipeline.aws)?).await?;
        if region {
            job.values.set_builtin(Builtin::AwsRegion, aws.region().to_owned());
        }
        if account {
            job.values.set_builtin(Builtin::AwsAccount, aws.identity().await?.account);
        }
    }
    Ok(())
}
