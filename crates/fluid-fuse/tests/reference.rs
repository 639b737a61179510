//! `docs/fluid-fuse.md` is made from the definitions of the options: `UPDATE_EXPECT=1 cargo test -p fluid-fuse
//! --test reference` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(unreachable_pub, reason = "what other tests see")]
#[path = "../../../tests/support/expect.rs"]
mod expect;

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};
use fluid_fuse::cli::Cli;
use fluid_fuse::metrics::{FAMILIES, Family};
use fluid_fuse::remote::options::{Meaning, facts, is_secret};
use fluid_sidecar_layout::Named as _;
use fluid_sidecar_layout::contract::{FLUID_FUSE, env};
use fluid_sidecar_layout::source::{DIRECTORY_SCHEMES, Scheme};

fn head() -> String {
    let (mount_point, mount_options, log) = (env::MOUNT_POINT, env::MOUNT_OPTIONS, env::LOG);
    format!(
        "\
<!-- Made from crates/fluid-fuse/src by its tests/reference.rs; change it there. -->

# {FLUID_FUSE}

Each flag has the variable beside it. The flag wins, then the variable, then Fluid's variables (`{mount_point}`,
`{mount_options}`: `uid=` and `gid=`), then Fluid's `config.json`. Only `ro` in `{mount_options}` wins over all. Sizes have
the form 128MiB, 2Gi or 500M, times 30s or 5m. `{log}` (or `RUST_LOG`) sets the level of the log on stderr: error, warn,
info, debug.
"
    )
}

fn sources() -> String {
    let option = env::OPTION;
    format!(
        "
## Options of the sources

Set these options with `--option NAME=VALUE`, in `{option}` (separated by spaces), or as `options` of a mount in Fluid's
`config.json`. Names are those of Fluid's runtimes; upper and lower case are the same, and so are `-` and `_` between words. A
name with a store's prefix (`fs.oss.`) is read for that store alone. Each option also exists as `NAME_file`, the path of a file
with the value, which is read again when it changes. Secrets (marked \u{2020}) are refused on the command line, also in
`--config-json`. A Dataset (Fluid's `config.json`) may name only some
[files and directories](../crates/fluid-fuse/SEMANTICS.md#limits-on-a-dataset).
"
    )
}

const CREDENTIALS: &str = "
## Credentials that are not options

Credentials that no option has come from the places where the store's own tools find them: their variables, a token of the
Pod's service account (for a role), the profiles of these tools, and the machine.

| store | variables | then, in this order |
| --- | --- | --- |
| `s3` | `AWS_ACCESS_KEY_ID` `AWS_SECRET_ACCESS_KEY` `AWS_SESSION_TOKEN` | `~/.aws`; `AWS_ROLE_ARN` with `AWS_WEB_IDENTITY_TOKEN_FILE`; ECS, EKS and EC2 |
| `oss` | `ALIBABA_CLOUD_ACCESS_KEY_ID` `ALIBABA_CLOUD_ACCESS_KEY_SECRET` `ALIBABA_CLOUD_SECURITY_TOKEN`, or `OSS_ACCESS_KEY_ID` `OSS_ACCESS_KEY_SECRET` `OSS_SESSION_TOKEN` | `ALIBABA_CLOUD_ROLE_ARN` with `ALIBABA_CLOUD_OIDC_PROVIDER_ARN` and `ALIBABA_CLOUD_OIDC_TOKEN_FILE` (RRSA); `~/.alibabacloud`; RAM role |
| `gs` | | `GOOGLE_APPLICATION_CREDENTIALS` or gcloud's own file, also of workload identity; the machine's account |
| `az` | | Azure's command line; `AZURE_CLIENT_SECRET` or a certificate; `AZURE_CLIENT_ID` and `AZURE_TENANT_ID` with `AZURE_FEDERATED_TOKEN_FILE`; the machine's identity |
| `cos` | `TENCENTCLOUD_SECRET_ID` `TENCENTCLOUD_SECRET_KEY` `TENCENTCLOUD_SECURITY_TOKEN` | `TKE_ROLE_ARN` with `TKE_IDENTITY_TOKEN_FILE` and `TKE_PROVIDER_ID` |
| `obs` | `HUAWEI_CLOUD_ACCESS_KEY_ID` `HUAWEI_CLOUD_SECRET_ACCESS_KEY` `HUAWEI_CLOUD_SECURITY_TOKEN` | |
| `tos` | `VOLCENGINE_ACCESS_KEY_ID` `VOLCENGINE_SECRET_ACCESS_KEY` `VOLCENGINE_SESSION_TOKEN` | |

These options are read from variables, too:

| option | variables, the first that is set |
| --- | --- |
";

const METRICS: &str = "
## Metrics

`--metrics` serves them in Prometheus' text format. Name, type, unit and labels of a stable metric change only with a major
version; an experimental metric may change with any version.

| metric | type | unit | stability | meaning |
| --- | --- | --- | --- | --- |
";

#[test]
fn reference() {
    let mut text = head();
    let mut program = Cli::command();
    program.build();
    for command in
        program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        describe(command, &mut text);
    }
    text.push_str(&sources());
    let schemes = Scheme::ALL.iter().flat_map(|scheme| scheme.names());
    let schemes = schemes.chain(DIRECTORY_SCHEMES.iter().copied());
    let schemes: Vec<_> = schemes.map(|name| format!("`{name}://`")).collect();
    writeln!(text, "\nSources: {}.\n", schemes.join(", ")).unwrap();
    text.push_str("| option | other names | meaning |\n| --- | --- | --- |\n");
    for option in Meaning::ALL {
        let names: Vec<_> = option.names().skip(1).map(|name| format!("`{name}`")).collect();
        let mark = if is_secret(option.name(), "") { " \u{2020}" } else { "" };
        writeln!(text, "| `{option}`{mark} | {} | {} |", names.join(" "), cell(option.about())).unwrap();
    }
    text.push_str(CREDENTIALS);
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for store in Scheme::ALL {
        for (variable, option) in facts(*store).environment {
            let option = format!("`{option}` of `{store}`");
            match rows.last_mut().filter(|(last, _)| *last == option) {
                Some((_, variables)) => variables.push(format!("`{variable}`")),
                None => rows.push((option, vec![format!("`{variable}`")])),
            }
        }
    }
    for (option, variables) in rows {
        writeln!(text, "| {option} | {} |", variables.join(" ")).unwrap();
    }
    text.push_str(METRICS);
    for Family { name, metric_type, unit, stability, help } in FAMILIES {
        let help = cell(help);
        writeln!(text, "| `fluid_fuse_{name}` | {metric_type} | {unit} | {stability} | {help} |").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fluid-fuse.md");
    if let Err(difference) = expect::expect(&path, &text) {
        panic!("{difference}");
    }
}

#[test]
fn help_shows_nobody_a_secret() {
    for command in ["mount", "bench"] {
        for flag in ["-h", "--help"] {
            let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
            program.args([command, flag]).env(env::SOURCE, "https://user:s3cr3t@host/a");
            program.env(env::OPTION, "region=r secret_key=s3cr3t");
            program.env(env::CONFIG_JSON, r#"{"mounts":[{"options":{"secret_key":"s3cr3t"}}]}"#);
            let help = String::from_utf8(program.output().unwrap().stdout).unwrap();
            assert!(help.contains(env::CONFIG_JSON) && !help.contains("s3cr3t"), "{help}");
        }
    }
}

fn describe(command: &Command, text: &mut String) {
    writeln!(text, "\n## {FLUID_FUSE} {}\n", command.get_name()).unwrap();
    let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
    for paragraph in about.split("\n\n") {
        writeln!(text, "{}.\n", paragraph.trim_end_matches('.')).unwrap();
    }
    text.push_str("| option | variable | default | meaning |\n| --- | --- | --- | --- |\n");
    let is_shown = |argument: &&Arg| !argument.is_hide_set() && argument.get_id() != "help";
    for argument in command.get_arguments().filter(is_shown) {
        let values = argument.get_value_names().unwrap_or_default().iter().map(|name| name.to_string());
        let value = values.collect::<Vec<_>>().join(" ");
        let name = match (argument.get_long(), argument.get_short()) {
            (Some(long), Some(short)) => format!("`--{long} {value}`, `-{short}`"),
            (Some(long), None) => format!("`--{long} {value}`"),
            _ => format!("`{value}`"),
        };
        let several = if several(argument) { ", repeatable" } else { "" };
        let env = argument.get_env().map(|env| format!("`{}`", env.to_str().unwrap())).unwrap_or_default();
        let defaults =
            argument.get_default_values().iter().map(|value| format!("`{}`", value.to_str().unwrap()));
        let help = argument.get_help().unwrap().to_string();
        writeln!(
            text,
            "| {name}{several} | {env} | {} | {} |",
            defaults.collect::<Vec<_>>().join(" "),
            cell(&help)
        )
        .unwrap();
    }
}

fn several(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
