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
use fluid_fuse::remote::options::{ENVIRONMENT, OPTIONS, SCHEMES, is_secret};

const HEAD: &str = "\
<!-- Made from crates/fluid-fuse/src by its tests/reference.rs; change it there. -->

# fluid-fuse

Each flag has the variable beside it; the flag wins, then the variable, then what Fluid sets (`MOUNT_POINT`,
`MOUNT_OPTIONS`: `uid=` and `gid=`), then Fluid's `config.json`. Only `ro` in `MOUNT_OPTIONS` wins over all. Sizes are
written like 128MiB, 2Gi or 500M, times like 30s or 5m. `FLUID_FUSE_LOG` (or `RUST_LOG`) sets the level of the log on
stderr: error, warn, info, debug.
";

const SOURCES: &str = "
## Options of the sources

Given with `--option NAME=VALUE`, in `FLUID_FUSE_OPTION` (separated by spaces), or as `options` of a mount in Fluid's
`config.json`. Names are written as Fluid's runtimes have them; case does not count, nor whether words are joined by
`-` or `_`. A name with a store's prefix (`fs.oss.`) is read for that store alone. Each also exists as `NAME_file`,
the path of a file that has the value and is read again when it changes. Secrets (marked \u{2020}) are refused on the
command line, also in `--config-json`.
";

const CREDENTIALS: &str = "
## Credentials that are not options

What no option says is looked for where the store's own tools look for it: in their variables, in a token of the Pod's
service account (for a role), in the profiles of these tools, and at the machine.

| store | variables | then, in this order |
| --- | --- | --- |
| `s3` | `AWS_ACCESS_KEY_ID` `AWS_SECRET_ACCESS_KEY` `AWS_SESSION_TOKEN` | `~/.aws`; `AWS_ROLE_ARN` with `AWS_WEB_IDENTITY_TOKEN_FILE`; ECS, EKS and EC2 |
| `oss` | `ALIBABA_CLOUD_ACCESS_KEY_ID` `ALIBABA_CLOUD_ACCESS_KEY_SECRET` `ALIBABA_CLOUD_SECURITY_TOKEN`, or `OSS_ACCESS_KEY_ID` `OSS_ACCESS_KEY_SECRET` `OSS_SESSION_TOKEN` | `ALIBABA_CLOUD_ROLE_ARN` with `ALIBABA_CLOUD_OIDC_PROVIDER_ARN` and `ALIBABA_CLOUD_OIDC_TOKEN_FILE` (RRSA); `~/.alibabacloud`; RAM role |
| `gs` | | `GOOGLE_APPLICATION_CREDENTIALS` or gcloud's own file, also of workload identity; the machine's account |
| `az` | | Azure's command line; `AZURE_CLIENT_SECRET` or a certificate; `AZURE_CLIENT_ID` and `AZURE_TENANT_ID` with `AZURE_FEDERATED_TOKEN_FILE`; the machine's identity |
| `cos` | `TENCENTCLOUD_SECRET_ID` `TENCENTCLOUD_SECRET_KEY` `TENCENTCLOUD_SECURITY_TOKEN` | `TKE_ROLE_ARN` with `TKE_IDENTITY_TOKEN_FILE` and `TKE_PROVIDER_ID` |
| `obs` | `HUAWEI_CLOUD_ACCESS_KEY_ID` `HUAWEI_CLOUD_SECRET_ACCESS_KEY` `HUAWEI_CLOUD_SECURITY_TOKEN` | |
| `tos` | `VOLCENGINE_ACCESS_KEY_ID` `VOLCENGINE_SECRET_ACCESS_KEY` `VOLCENGINE_SESSION_TOKEN` | |

Of the options, these are read from variables too:

| option | variables, the first that is set |
| --- | --- |
";

#[test]
fn reference() {
    let mut text = HEAD.to_string();
    let mut program = Cli::command();
    program.build();
    for command in
        program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        describe(command, &mut text);
    }
    text.push_str(SOURCES);
    let schemes: Vec<_> = SCHEMES.iter().map(|(name, _)| format!("`{name}://`")).collect();
    writeln!(text, "\nSources: {}, `file://`.\n", schemes.join(", ")).unwrap();
    text.push_str("| option | other names | meaning |\n| --- | --- | --- |\n");
    for row in OPTIONS {
        let names: Vec<_> = row.names[1..].iter().map(|name| format!("`{name}`")).collect();
        let mark = if is_secret(row.names[0], "") { " \u{2020}" } else { "" };
        writeln!(text, "| `{}`{mark} | {} | {} |", row.names[0], names.join(" "), cell(row.text)).unwrap();
    }
    text.push_str(CREDENTIALS);
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for (scheme, variable, meaning) in ENVIRONMENT {
        let store = SCHEMES.iter().find(|(_, known)| known == scheme).unwrap().0;
        let name = OPTIONS.iter().find(|row| row.meaning == *meaning).unwrap().names[0];
        let option = format!("`{name}` of `{store}`");
        match rows.last_mut().filter(|(last, _)| *last == option) {
            Some((_, variables)) => variables.push(format!("`{variable}`")),
            None => rows.push((option, vec![format!("`{variable}`")])),
        }
    }
    for (option, variables) in rows {
        writeln!(text, "| {option} | {} |", variables.join(" ")).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fluid-fuse.md");
    if let Err(difference) = expect::expect(&path, &text) {
        panic!("{difference}");
    }
}

#[test]
fn help_shows_nobody_a_secret() {
    for command in ["mount", "warm", "bench"] {
        for flag in ["-h", "--help"] {
            let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
            program.args([command, flag]).env("FLUID_FUSE_SOURCE", "https://user:s3cr3t@host/a");
            program.env("FLUID_FUSE_OPTION", "region=r secret_key=s3cr3t");
            program.env("FLUID_FUSE_CONFIG_JSON", r#"{"mounts":[{"options":{"secret_key":"s3cr3t"}}]}"#);
            let help = String::from_utf8(program.output().unwrap().stdout).unwrap();
            assert!(help.contains("FLUID_FUSE_CONFIG_JSON") && !help.contains("s3cr3t"), "{help}");
        }
    }
}

fn describe(command: &Command, text: &mut String) {
    writeln!(text, "\n## fluid-fuse {}\n", command.get_name()).unwrap();
    let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
    for paragraph in about.split("\n\n") {
        writeln!(text, "{}.\n", paragraph.trim_end_matches('.')).unwrap();
    }
    text.push_str("| option | variable | default | meaning |\n| --- | --- | --- | --- |\n");
    for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
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
