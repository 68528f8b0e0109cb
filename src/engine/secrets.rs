//! The secrets of `env`: fetched from AWS when publishing, taken from the environment locally, and masked in either case.

use super::Job;
use super::services::Services;
use crate::aws::secrets_manager::SecretReference;
use crate::exit::Failure;
use crate::pipeline::model::Action;
use crate::pipeline::template::{Builtin, Reference};
use crate::pipeline::templates;
use crate::plan::Mode;
use crate::secret::Secret;

/// Gives every secret variable its value, and the built-ins of AWS theirs where the pipeline uses them. The answer is what
/// the user should know.
pub(super) async fn resolve(job: &mut Job, services: &Services) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    let names: Vec<String> = job.pipeline.env.secret_names().map(ToOwned::to_owned).collect();
    for name in names {
        let value = if job.mode == Mode::Local || job.values.is_given(&name) {
            job.values.get(&name).map(Secret::new)
        } else {
            Some(fetch(job, services, &name).await?)
        };
        match value {
            Some(secret) => {
                job.values.set(&name, secret.expose());
                mask(job, &name, &secret, &mut warnings);
            }
            None => warnings.push(format!(
                "the secret {name} has no value here; give it in --env-file or in the environment"
            )),
        }
    }
    for name in named_secrets(job) {
        if let Some(secret) = job.values.get(&name).map(Secret::new) {
            mask(job, &name, &secret, &mut warnings);
        }
    }
    if job.mode == Mode::Publish {
        aws_builtins(job, services).await?;
    }
    Ok(warnings)
}

fn mask(job: &Job, name: &str, secret: &Secret, warnings: &mut Vec<String>) {
    if !job.masks.add(secret) {
        warnings.push(format!("the secret {name} is shorter than four characters and is not masked"));
    }
}

/// Variables that the file calls secrets where it uses them.
fn named_secrets(job: &Job) -> Vec<String> {
    let pipeline = &job.pipeline;
    let images = pipeline.images.values().flat_map(|image| &image.secrets);
    let steps = pipeline.phases.iter().flat_map(super::super::pipeline::model::Phase::all_steps);
    let tests = steps.filter_map(|step| match &step.action {
        Action::Test(test) => Some(&test.secrets),
        _ => None,
    });
    let names = images.chain(tests.flatten());
    let fetched: Vec<&str> = pipeline.env.secret_names().collect();
    names.map(|name| name.value.clone()).filter(|name| !fetched.contains(&name.as_str())).collect()
}

async fn fetch(job: &Job, services: &Services, name: &str) -> Result<Secret, Failure> {
    let env = &job.pipeline.env;
    let aws = services.aws().await?;
    if let Some(parameter) = env.parameter_store.get(name) {
        let parameter = job.resolve(&job.values, parameter)?;
        return Ok(aws.parameter(&parameter).await?);
    }
    let reference = match env.secrets_manager.get(name) {
        Some(reference) => job.resolve(&job.values, reference)?,
        None => String::new(),
    };
    Ok(aws.secret(&SecretReference::parse(&reference)).await?)
}

/// Region and account, where the environment does not name them.
async fn aws_builtins(job: &mut Job, services: &Services) -> Result<(), Failure> {
    let mut region = false;
    let mut account = false;
    templates(&job.pipeline, &mut |template, _| {
        for (reference, _) in template.references() {
            region |= *reference == Reference::Builtin(Builtin::AwsRegion);
            account |= *reference == Reference::Builtin(Builtin::AwsAccount);
        }
    });
    if region && job.context.region.is_none() {
        let value = services.aws().await?.region().to_owned();
        job.values.set_builtin(Builtin::AwsRegion, value);
    }
    if account && job.context.account.is_none() {
        let value = services.aws().await?.account().await?;
        job.values.set_builtin(Builtin::AwsAccount, value);
    }
    Ok(())
}
