//! Rights that an account lacks, and the commands by which an administrator grants them.

use crate::api_server::Forbidden;

/// The group of names of ServiceAccounts among those of users.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The role with everything that the policy reads.
const READER: &str = "fluid-sidecar-reader";

/// A right, as `kubectl create clusterrole` has it.
pub(crate) struct Right<'r> {
    /// With commas between them.
    pub(crate) verbs: &'r str,
    pub(crate) resources: Vec<String>,
    /// `None`: in every namespace, and of what is in none.
    pub(crate) namespace: Option<&'r str>,
}

/// The sentence that says what is missing, and below it the commands that grant it.
pub(crate) fn missing(forbidden: &Forbidden, right: &Right<'_>) -> String {
    // One role for each right, and one binding for each right and user: another user needs the second command alone.
    let role = match right.resources.as_slice() {
        [one] => format!("fluid-sidecar-{}-{one}", right.verbs),
        _ => READER.to_string(),
    };
    let [role, binding] = grant(&role, &forbidden.user, right);
    format!(
        "{}. An administrator grants it by\n  {role}\n  {binding}",
        forbidden.message.trim_end_matches('.')
    )
}

/// The commands that make a role with a right, and bind it to a user. Only the right may not be anybody's text.
pub(crate) fn grant(role: &str, user: &str, right: &Right<'_>) -> [String; 2] {
    let Right { verbs, resources, namespace } = right;
    let user = if user.is_empty() { "USER" } else { user };
    let subject = match user.strip_prefix(SERVICE_ACCOUNT) {
        Some(account) => format!("--serviceaccount={}", quoted(account)),
        None => format!("--user={}", quoted(user)),
    };
    let name = user.strip_prefix(SERVICE_ACCOUNT).unwrap_or(user);
    // A name of RBAC is a part of a path.
    let name: String = name.chars().map(|char| if is_plain(char) { char } else { '-' }).collect();
    let (scope, of_namespace) = match namespace {
        Some(namespace) => ("", format!(" --namespace={namespace}")),
        None => ("cluster", String::new()),
    };
    let resources = resources.join(",");
    [
        format!("kubectl create {scope}role {role} --verb={verbs} --resource={resources}{of_namespace}"),
        format!(
            "kubectl create {scope}rolebinding {role}:{name} --{scope}role={role} {subject}{of_namespace}"
        ),
    ]
}

/// The user that a refusal names: `User "…" cannot get resource …`.
pub(crate) fn user_of(message: &str) -> Option<&str> {
    let user = message.split_once("User \"")?.1.split_once('"')?.0;
    // A line of a terminal, and a word for a shell.
    (!user.chars().any(char::is_control)).then_some(user)
}

fn is_plain(char: char) -> bool {
    char.is_ascii_alphanumeric() || "-_.:@".contains(char)
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    if text.chars().all(is_plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_grant_what_is_missing_to_who_asked() {
        let forbidden = |user: &str| Forbidden {
            message: "pods \"app\" is forbidden: no.".into(),
            user: user.into(),
            resource: "pods".into(),
        };
        let right = |resources: &[&str], namespace| Right {
            verbs: "get",
            resources: resources.iter().map(|it| it.to_string()).collect(),
            namespace,
        };
        for (user, resources, namespace, expected) in [
            (
                "system:serviceaccount:team:dev",
                vec!["pods"],
                Some("team"),
                "pods \"app\" is forbidden: no. An administrator grants it by
  kubectl create role fluid-sidecar-get-pods --verb=get --resource=pods --namespace=team
  kubectl create rolebinding fluid-sidecar-get-pods:team:dev --role=fluid-sidecar-get-pods --serviceaccount=team:dev --namespace=team",
            ),
            (
                "it's me/x",
                vec!["pods", "daemonsets.apps"],
                None,
                "pods \"app\" is forbidden: no. An administrator grants it by
  kubectl create clusterrole fluid-sidecar-reader --verb=get --resource=pods,daemonsets.apps
  kubectl create clusterrolebinding fluid-sidecar-reader:it-s-me-x --clusterrole=fluid-sidecar-reader --user='it'\\''s me/x'",
            ),
        ] {
            assert_eq!(missing(&forbidden(user), &right(&resources, namespace)), expected);
        }
    }
}
