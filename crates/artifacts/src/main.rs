//! `artifacts`: makes the files that are published.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use artifacts::image::{self, About, Program};
use artifacts::layout::Layout;
use artifacts::metadata::Metadata;
use artifacts::{module, policy};
use clap::{Parser, Subcommand};

/// Make the files that are published: the annotated policy, and the policy and the sidecar's image as OCI image
/// layouts.
///
/// A layout is a directory that skopeo, podman, umoci and others read: `skopeo copy --all --preserve-digests
/// oci:DIR docker://REGISTRY/NAME:TAG` publishes it, as `make publish` and `make publish-image` do.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put the metadata into the policy's module, as `kwctl annotate` does
    Annotate {
        /// The module, as it was built
        #[arg(value_name = "FILE", default_value = "target/policy.wasm")]
        module: PathBuf,
        /// What Kubewarden shall know of it
        #[arg(long, value_name = "FILE", default_value = "policy-metadata.yml")]
        metadata: PathBuf,
        /// Its documentation in Markdown, for catalogues
        #[arg(long, value_name = "FILE")]
        usage: Option<PathBuf>,
        /// Where the annotated module goes
        #[arg(long, short, value_name = "FILE", default_value = "annotated-policy.wasm")]
        output: PathBuf,
    },
    /// Make an OCI image layout of the policy, of the same bytes that `kwctl push` sends
    Policy {
        /// The annotated module
        #[arg(value_name = "FILE", default_value = "annotated-policy.wasm")]
        module: PathBuf,
        /// The directory; an older layout there is replaced
        #[arg(long, short, value_name = "DIR", default_value = "target/policy")]
        output: PathBuf,
    },
    /// Make an OCI image layout of the sidecar, the same bytes of the same programs
    Image {
        /// The static programs, one for each architecture
        #[arg(value_name = "FILE", required = true)]
        programs: Vec<PathBuf>,
        /// The commit that they were built from
        #[arg(long, value_name = "COMMIT")]
        revision: Option<String>,
        /// When the image was made, in seconds since 1970
        #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value = "0")]
        created: u32,
        /// The directory; an older layout there is replaced
        #[arg(long, short, value_name = "DIR", default_value = "target/image")]
        output: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(said) => {
            anstream::println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            anstream::eprintln!("artifacts: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<String> {
    match command {
        Command::Annotate { module, metadata, usage, output } => {
            let yaml = text(&metadata)?;
            let usage = usage.as_deref().map(text).transpose()?;
            let parsed = Metadata::parse(&yaml, usage.as_deref());
            let parsed = parsed.with_context(|| metadata.display().to_string())?;
            let annotated = module::annotate(&bytes(&module)?, &parsed);
            let annotated = annotated.with_context(|| module.display().to_string())?;
            fs::write(&output, &annotated).with_context(|| format!("cannot write {}", output.display()))?;
            Ok(format!("annotated: {}, {} bytes", output.display(), annotated.len()))
        }
        Command::Policy { module, output } => {
            let tag = policy::write(&bytes(&module)?, Layout::create(&output)?);
            let tag = tag.with_context(|| module.display().to_string())?;
            Ok(format!("policy: {}, tag {tag}", output.display()))
        }
        Command::Image { programs: files, revision, created, output } => {
            let mut programs: Vec<Program> = Vec::new();
            for file in &files {
                let program = Program::new(bytes(file)?).with_context(|| file.display().to_string())?;
                let architecture = program.architecture();
                let again = programs.iter().any(|known| known.architecture() == architecture);
                ensure!(!again, "{}: there is a program for {architecture} already", file.display());
                programs.push(program);
            }
            programs.sort_by_key(Program::architecture);
            let about = About { version: env!("CARGO_PKG_VERSION").into(), revision, created };
            let tag = image::write(&programs, &about, Layout::create(&output)?)?;
            let architectures: Vec<&str> = programs.iter().map(Program::architecture).collect();
            Ok(format!("image: {}, tag {tag}, linux/{}", output.display(), architectures.join(", linux/")))
        }
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
