//! The diagnoses: one row for each.
//!
//! Findings are in the order of [`Likelihood`], then of the table, so a cause stands above what it leads to. What a finding
//! explains is left out beside it.

use std::collections::{BTreeMap, BTreeSet};

use fluid_sidecar_layout::contract::message::{
    ANSWERS_AGAIN, NEVER_READY, NO_BUCKET, NO_DEVICE, NOT_READY, OUTAGE_BEGAN, OUTAGE_ENDED, REFUSES, SILENT,
    SLOW_READ, UNAVAILABLE, WAITS,
};
use fluid_sidecar_layout::contract::{VFUSE_RESOURCE, env, exit_code};
use fluid_sidecar_layout::named;
use fluid_sidecar_policy::reason::{Code, POLICY};
use fluid_sidecar_policy::settings;
use fluid_sidecar_policy::status::ANNOTATION;
use serde_json::Value;

use super::admission::Verdict;
use super::case::{Case, Container, Found, pod_event, quote};
use super::evidence::{Evidence, event_time, list, text};
use crate::rights::{self, Right};

named! {
    /// How sure a diagnosis is.
    pub enum Likelihood {
        /// The evidence says so.
        Certain = "certain",
        /// The evidence has hardly another explanation.
        Likely = "likely",
        /// It may be the cause, or a part of it.
        Possible = "possible",
    }
}

use Likelihood::{Certain, Likely, Possible};

/// A diagnosis.
pub struct Row {
    /// The stable name.
    pub code: &'static str,
    /// What is wrong, as a heading.
    pub title: &'static str,
    /// How sure it is.
    pub likelihood: Likelihood,
    /// What it means, and how it comes about.
    pub meaning: &'static str,
    /// What to do: sentences and commands, in which `{pod}`, `{namespace}`, `{container}` stand for names.
    pub remedy: &'static [&'static str],
    /// Diagnoses that this one explains.
    pub explains: &'static [&'static str],
    /// Looks for it.
    pub check: fn(&Case<'_>) -> Option<Found>,
}

/// A row that applies.
pub struct Finding {
    /// The diagnosis.
    pub row: &'static Row,
    /// What was found.
    pub found: Found,
    /// What to do, with the names of this case.
    pub remedy: Vec<String>,
}

/// Looks for everything.
pub fn diagnose(evidence: &Evidence) -> Vec<Finding> {
    let case = Case::new(evidence);
    let mut findings: Vec<Finding> = Vec::new();
    for row in ROWS {
        if let Some(found) = (row.check)(&case) {
            let mut remedy: Vec<_> =
                row.remedy.iter().map(|step| filled(step, &case, &found.container)).collect();
            if row.code == MISSING_RIGHTS {
                remedy.extend(grants(evidence));
            }
            findings.push(Finding { row, found, remedy });
        }
    }
    // A container that holds a mount outlives whatever befalls the others.
    let is_of_holder = |finding: &Finding| {
        case.sidecars.iter().any(|it| it.name == finding.found.container && case.is_holder(it))
    };
    let explains = |cause: &Finding, effect: &Finding| {
        cause.row.explains.contains(&effect.row.code)
            && (cause.found.container == effect.found.container || !is_of_holder(effect))
    };
    let explained: Vec<bool> =
        findings.iter().map(|effect| findings.iter().any(|cause| explains(cause, effect))).collect();
    let mut explained = explained.into_iter();
    findings.retain(|_| explained.next() == Some(false));
    findings.sort_by_key(|finding| finding.row.likelihood);
    findings
}

/// The commands that grant what could not be read, for the account that the API server names in its refusals. One read leads
/// to others, so that all of them are granted at once.
fn grants(evidence: &Evidence) -> Vec<String> {
    let is_word =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte));
    // A record may come from anybody, and these go into command lines.
    let denied = evidence.unread.iter().filter(|unread| {
        unread.forbidden
            && is_word(&unread.resource)
            && is_word(unread.namespace.as_deref().unwrap_or_default())
    });
    let (mut user, mut by_place) = (None, BTreeMap::<Option<&str>, BTreeSet<&str>>::new());
    for unread in denied {
        user = user.or_else(|| rights::user_of(&unread.message));
        let resources = by_place.entry(unread.namespace.as_deref()).or_default();
        resources.extend(if unread.namespace.is_some() {
            READ_OF_THE_NAMESPACE
        } else {
            READ_OF_THE_CLUSTER
        });
        resources.insert(&unread.resource);
    }
    let commands = |(namespace, resources): (_, BTreeSet<&str>)| {
        let resources = resources.into_iter().map(str::to_string).collect();
        rights::grant(ROLE, user.unwrap_or_default(), &Right { verbs: "get,list", resources, namespace })
    };
    by_place.into_iter().flat_map(commands).collect()
}

/// A step with the names of the case.
fn filled(step: &str, case: &Case<'_>, container: &str) -> String {
    // A record may come from anybody, and these go into command lines.
    let is_name = |name: &&str| {
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        !name.is_empty() && name.bytes().all(is_allowed)
    };
    let pod = case.pod.map(|pod| text(pod, "/metadata/name")).filter(is_name).unwrap_or("POD");
    let namespace = Some(case.evidence.asked.namespace.as_str()).filter(is_name).unwrap_or("NAMESPACE");
    let container = Some(container).filter(is_name).unwrap_or("CONTAINER");
    step.replace("{namespace}", namespace).replace("{pod}", pod).replace("{container}", container)
}

/// The row whose remedy is made of what could not be read.
const MISSING_RIGHTS: &str = "missing-rights";
/// The role that grants it.
const ROLE: &str = "fluid-sidecar-doctor";
/// The resources without a namespace that `doctor` reads, as roles name them.
const READ_OF_THE_CLUSTER: &[&str] = &[
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "namespaces",
    "persistentvolumes",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];
/// The same in the Pod's namespace.
const READ_OF_THE_NAMESPACE: &[&str] = &[
    "cronjobs.batch",
    "daemonsets.apps",
    "deployments.apps",
    "events",
    "jobs.batch",
    "persistentvolumeclaims",
    "pods",
    "pods/log",
    "replicasets.apps",
    "statefulsets.apps",
];
/// An end of all containers is news to the platform, to kubelet and to the sidecar, which take their time.
const ENDS_WITHIN_SECONDS: i64 = 30;
/// A gate of a store that is well passes within a second.
const GATE_PASSES_WITHIN_SECONDS: i64 = 5;
/// With `exit: processNamespace` and restarts the sidecar waits for 310 s, kubelet's longest pause before a restart.
const SETTLES_WITHIN_SECONDS: i64 = 340;
/// A sidecar with less cannot even do what is needed besides reading: it reads 1 GiB in 0.6 s of a processor.
const TINY_MILLICORES: u64 = 100;
/// With this much it gives some 800 MB/s; with less a slow read may be its own fault.
const SMALL_MILLICORES: u64 = 500;
/// The metric of reads that were answered with an error, which docs/fluid-fuse.md promises to keep.
const READ_ERRORS: &str = "fluid_fuse_read_errors_total{";
/// kubelet's reasons for a container that waits for its image.
const IMAGE_REASONS: &[&str] = &[
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
];
/// kubelet's reasons for a container that cannot be made.
const CREATE_REASONS: &[&str] = &["CreateContainerConfigError", "CreateContainerError", "RunContainerError"];
/// The sidecar's diagnoses that explain why it ends, and what the application sees of that.
const EFFECTS: &[&str] = &[
    "gate-failed",
    "sidecar-fails",
    "mount-was-lost",
    "sidecar-restarted",
    "application-fails",
    "store-was-away",
    "slow",
];
/// What a Pod without a sidecar cannot have.
const WITHOUT_SIDECAR: &[&str] = &["unschedulable", "application-fails", "missing-object"];

/// What the API server says of a refusal by a webhook, of Pod Security, and of a webhook that failed.
const DENIED: &str = "denied the request";
const POD_SECURITY: &str = "violates PodSecurity";
const WEBHOOK_FAILED: &str = "failed calling webhook";

/// The table, causes above what they lead to.
pub const ROWS: &[Row] = &[
    // --- there is no Pod ---
    Row {
        code: "refused",
        title: "The policy refused the Pod",
        likelihood: Certain,
        meaning: "The owner (ReplicaSet, Job, …) could not create its Pod, because the policy cannot serve one of its Datasets. \
                  The owner tries again, after longer and longer pauses.",
        remedy: &[
            "Do what the message says; docs/operators.md (Troubleshooting by message) has more about each.",
            "The owner tries again by itself. A Deployment tries at once after:",
            "kubectl rollout restart deployment NAME --namespace {namespace}",
        ],
        explains: &["refused-by-others"],
        check: |case| {
            let (source, message) = case.failed_create()?;
            let (_, reason) = message.split_once(&format!("{POLICY}: "))?;
            message
                .contains(DENIED)
                .then(|| Found::new("The policy refuses the Pod.", vec![quote(source, reason)]))
        },
    },
    Row {
        code: "pod-security",
        title: "Pod Security refuses the Pod",
        likelihood: Certain,
        meaning: "The injected Pod has a hostPath volume below /runtime-mnt (and on acs and kubernetes a privileged sidecar), \
                  which the levels `baseline` and `restricted` of Pod Security forbid. Of a Deployment they look at the \
                  template, so only its Pods are refused.",
        remedy: &[
            "Run the Pod in another namespace, or have the administrator allow it here, together with the rules of \
             deploy/pod-security.yaml:",
            "kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged --overwrite",
        ],
        explains: &["refused-by-others"],
        check: |case| {
            let (source, message) = case.failed_create()?;
            message
                .contains(POD_SECURITY)
                .then(|| Found::new("Pod Security refuses the Pod.", vec![quote(source, message)]))
        },
    },
    Row {
        code: "policy-away",
        title: "The webhook of the policy does not answer, so the Pod is refused",
        likelihood: Certain,
        meaning: "With failurePolicy Fail the API server takes no Pod while no policy server answers.",
        remedy: &[
            "Nothing if it passes: the owner tries again. Otherwise look at the policy server:",
            "kubectl get pods --namespace kubewarden --selector kubewarden/policy-server=fluid-sidecar",
        ],
        explains: &["refused-by-others"],
        check: |case| {
            let (source, message) = case.failed_create()?;
            let is_ours = case.policies.iter().any(|policy| message.contains(policy.name));
            (message.contains(WEBHOOK_FAILED) && is_ours).then(|| {
                Found::new("The webhook of the policy does not answer.", vec![quote(source, message)])
            })
        },
    },
    Row {
        code: "refused-by-others",
        title: "Something else refuses the Pod",
        likelihood: Certain,
        meaning: "A quota, another webhook or an admission policy refuses the Pod, perhaps because of what the injection added: \
                  a container without requests or limits, a hostPath, a privileged container.",
        remedy: &[
            "The message names who refuses it. For a quota that wants requests or limits give each container of the Pod \
             requests; limits of the sidecar are the administrator's (sidecars.RUNTIME.limits).",
            "kubectl describe quota,limitrange --namespace {namespace}",
        ],
        explains: &[],
        check: |case| {
            let (source, message) = case.failed_create()?;
            Some(Found::new("The Pod cannot be created.", vec![quote(source, message)]))
        },
    },
    // --- the Pod has no sidecar ---
    Row {
        code: "no-claim",
        title: "The Pod mounts no claim",
        likelihood: Likely,
        meaning: "A sidecar takes the place of a Dataset's claim. A Pod without claims is none of the policy's business.",
        remedy: &[
            "Name the Dataset's claim in spec.volumes of the Pod (persistentVolumeClaim.claimName), and mount it:",
            "kubectl get datasets,pvc --namespace {namespace}",
        ],
        explains: &[],
        check: |case| uninjected(case, "no-claim"),
    },
    Row {
        code: "opted-out",
        title: "The Pod has opted out",
        likelihood: Certain,
        meaning: "The label fluid.io/enable-injection=false keeps the policy from the Pod.",
        remedy: &[
            "Remove the label from the Pod's template (spec.template.metadata.labels), and create the Pod anew.",
        ],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "opted-out"),
    },
    Row {
        code: "exempt",
        title: "The policy leaves Pods of this kind alone",
        likelihood: Certain,
        meaning: "Pods of kube-system, static Pods and Windows Pods are never changed.",
        remedy: &["Run the Pod in another namespace, or on Linux."],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "exempt"),
    },
    Row {
        code: "claim-pending",
        title: "A claim is not bound",
        likelihood: Certain,
        meaning: "No volume belongs to the claim, so the Pod waits for one. Fluid makes the claim of a Dataset together with its \
                  volume; a claim that was made by hand stays without one.",
        remedy: &[
            "Look at the events of the claim. If it was to be a Dataset's, delete it: Fluid makes it when the Dataset is bound.",
            "kubectl describe pvc --namespace {namespace}",
            "kubectl get datasets --namespace {namespace}",
        ],
        explains: &["unschedulable", "not-a-dataset"],
        check: claim_pending,
    },
    Row {
        code: "unresolved",
        title: "The policy cannot serve a Dataset of the Pod",
        likelihood: Certain,
        meaning: "The claim does not exist, the Dataset is not bound, its Runtime cannot be served by a sidecar, or the Pod uses \
                  it in a way that a sidecar cannot serve. The Pod was admitted without a sidecar, because the setting \
                  onUnresolved allows that or because the policy did not answer.",
        remedy: &[
            "Do what the message says; docs/operators.md (Troubleshooting by message) has more about each. Then create the Pod \
             anew:",
            "kubectl delete pod {pod} --namespace {namespace}",
        ],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "unresolved"),
    },
    Row {
        code: "undecidable",
        title: "Nothing makes certain that the Pod goes to a serverless node",
        likelihood: Certain,
        meaning: "The Pod may go to a serverless node or to another one. With a sidecar it could run on serverless nodes alone, \
                  so the policy does not choose for the scheduler.",
        remedy: &["Set the label alibabacloud.com/eci=true on the Pod's template, or what the message says."],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "undecidable"),
    },
    Row {
        code: "not-a-dataset",
        title: "No claim of the Pod is a Dataset's",
        likelihood: Likely,
        meaning: "Fluid labels the claims of Datasets; the policy leaves all others as they are.",
        remedy: &[
            "Name the claim of the Dataset, which has the Dataset's name. If this one should be it: is the Dataset bound?",
            "kubectl get pvc --show-labels --namespace {namespace}",
            "kubectl get datasets --namespace {namespace}",
        ],
        explains: &[],
        check: |case| uninjected(case, "not-a-dataset"),
    },
    Row {
        code: "not-serverless",
        title: "The policy takes the Pod for one that goes to an ordinary node",
        likelihood: Certain,
        meaning: "No marker (label, node selector, affinity, annotation) sends the Pod to a serverless node, or one that counts \
                  more sends it elsewhere. On an ordinary node Fluid's CSI driver mounts the claim.",
        remedy: &[
            "Set a marker on the Pod's template, not on the Deployment alone; usually the label alibabacloud.com/eci=true. \
             SEMANTICS.md has all of them. For labels of the namespace the administrator sets namespaceLabels: read.",
        ],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "not-serverless"),
    },
    Row {
        code: "no-policy",
        title: "The policy is not installed",
        likelihood: Certain,
        meaning: "The cluster has neither a policy of this project nor a webhook of one, so nothing changes the Pod.",
        remedy: &[
            "The administrator installs it: deploy/README.md. Pods that exist then must be created anew.",
            "kubectl get clusteradmissionpolicies,mutatingwebhookconfigurations",
        ],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "no-policy"),
    },
    Row {
        code: "policy-not-active",
        title: "The policy is not active",
        likelihood: Certain,
        meaning: "A new policy has no webhook before the policy server has loaded it; settings that are refused, a module that is \
                  missing or a PolicyServer that does not exist keep it from that. With mode monitor Pods stay as they are.",
        remedy: &[
            "Look for the Pod of the policy server that crashes; the end of its log has the reason:",
            "kubectl get pods --namespace kubewarden --selector kubewarden/policy-server=fluid-sidecar",
            "kubectl logs --namespace kubewarden NAME",
            "kubectl get clusteradmissionpolicies",
        ],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "policy-not-active"),
    },
    Row {
        code: "not-asked",
        title: "The API server does not ask the policy about this Pod",
        likelihood: Certain,
        meaning: "The namespaceSelector, the objectSelector or the matchConditions of the webhook leave the Pod out.",
        remedy: &[
            "Run the Pod in a namespace that is selected, or have the administrator change the selector that is quoted.",
            "kubectl get namespace {namespace} --show-labels",
        ],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "not-asked"),
    },
    Row {
        code: "older-than-policy",
        title: "The Pod is older than the policy",
        likelihood: Certain,
        meaning: "A webhook is asked when a Pod is created, never about Pods that exist.",
        remedy: &[
            "Create the Pod anew; of an owner it is enough to delete the Pod:",
            "kubectl delete pod {pod} --namespace {namespace}",
        ],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "older-than-policy"),
    },
    Row {
        code: "no-answer",
        title: "The policy did not answer when the Pod was created",
        likelihood: Likely,
        meaning: "Everything is as it should be, and the policy would give the Pod a sidecar now. With failurePolicy Ignore the \
                  API server admits a Pod as it is while no policy server answers.",
        remedy: &[
            "Create the Pod anew; of an owner it is enough to delete the Pod:",
            "kubectl delete pod {pod} --namespace {namespace}",
            "If it happens again, look at the policy server; deploy/verify.yaml refuses such Pods.",
        ],
        explains: WITHOUT_SIDECAR,
        check: |case| uninjected(case, "no-answer"),
    },
    // --- the sidecar does not start ---
    Row {
        code: "sidecar-removed",
        title: "The sidecar was taken away",
        likelihood: Certain,
        meaning: "The annotation of the policy says that the Pod has a sidecar, and there is none: another webhook, built with an old \
                  Kubernetes library, has dropped it, or the Pod was written by hand from one that was injected.",
        remedy: &[
            "Find the webhook (those that change Pods are listed above), and update it or exclude these Pods from it. The \
             administrator can have such Pods refused by deploy/verify.yaml. A Pod of your own: create it from its manifest, \
             without the annotation.",
            "kubectl get mutatingwebhookconfigurations",
        ],
        explains: &["sidecar-changed", "application-fails", "other-settings", "unschedulable"],
        check: sidecar_removed,
    },
    Row {
        code: "no-vfuse",
        title: "No node has a FUSE device for the Pod",
        likelihood: Certain,
        meaning: "The sidecar has the limit alibabacloud.com/vfuse, which serverless nodes offer, and nodes with the device plugin. The \
                  Pod may not go to such a node, or all devices are taken.",
        remedy: &[
            "See that nothing in the Pod (nodeSelector, affinity, missing tolerations) keeps it from virtual nodes. On nodes of \
             your own the device plugin has to run: deploy/device-plugin.yaml.",
            "kubectl get nodes -o custom-columns='NAME:.metadata.name,VFUSE:.status.allocatable.alibabacloud\\.com/vfuse'",
        ],
        explains: &["unschedulable"],
        check: |case| {
            let message = unschedulable(case)?;
            message.contains(&format!("Insufficient {VFUSE_RESOURCE}")).then(|| {
                let sentence = "The Pod waits for a node that has a FUSE device for its sidecar.";
                Found::new(sentence, vec![quote("condition PodScheduled", message)])
            })
        },
    },
    Row {
        code: "unschedulable",
        title: "No node takes the Pod",
        likelihood: Certain,
        meaning: "The scheduler has no node for the Pod, for the reasons that it names. It is not the FUSE device.",
        remedy: &["kubectl describe pod {pod} --namespace {namespace}"],
        explains: &[],
        check: |case| {
            let message = unschedulable(case)?;
            Some(Found::new("The Pod waits for a node.", vec![quote("condition PodScheduled", message)]))
        },
    },
    Row {
        code: "image",
        title: "An image cannot be pulled",
        likelihood: Certain,
        meaning: "The node cannot get the image of the container. That of a sidecar comes from the Runtime's DaemonSet, or from the \
                  setting sidecarImages.",
        remedy: &[
            "Is the name right, does the registry answer from that node, and does the Pod's namespace have the imagePullSecrets? \
             The image of the sidecar is the administrator's: the Runtime, or the setting sidecarImages.",
            "kubectl describe pod {pod} --namespace {namespace}",
        ],
        explains: &["gate-failed"],
        check: image,
    },
    Row {
        code: "missing-object",
        title: "A Secret or ConfigMap that a container needs is missing",
        likelihood: Certain,
        meaning: "kubelet cannot make the container, since an object that it names is not in the namespace of the Pod: usually the \
                  Secret with the keys of the store, or that of a Dataset of another namespace.",
        remedy: &[
            "Create what the message names in the namespace of the Pod; kubelet tries again by itself.",
            "kubectl get secrets,configmaps --namespace {namespace}",
        ],
        explains: &["gate-failed"],
        check: missing_object,
    },
    Row {
        code: "no-device",
        title: "The sidecar has no /dev/fuse",
        likelihood: Certain,
        meaning: "The container may not open the FUSE device: its limit for the device was taken away, the node has none, or the Pod \
                  runs where the policy did not expect it.",
        remedy: &[
            "Does the Pod run on the kind of node that the annotation names as its destination? On ECI the limit \
             alibabacloud.com/vfuse: 1 brings the device; elsewhere the sidecar is privileged, and the node needs the module fuse.",
            "kubectl get pod {pod} --namespace {namespace} -o jsonpath='{.spec.nodeName}{\"\\n\"}{.metadata.annotations}'",
        ],
        explains: EFFECTS,
        check: |case| {
            let (container, said) = case.says(&[NO_DEVICE])?;
            Some(Found::of(&container, "The sidecar has no FUSE device.", vec![said]))
        },
    },
    Row {
        code: "options",
        title: "The sidecar does not take its options",
        likelihood: Certain,
        meaning: "An option or a variable of the sidecar has a value that it does not know. They come from the Dataset, from the \
                  Runtime's DaemonSet and from the settings of the policy (sidecars.RUNTIME.env).",
        remedy: &[
            "Correct the option that is named; docs/fluid-fuse.md has all of them. Then create the Pod anew.",
        ],
        explains: EFFECTS,
        check: |case| {
            let usage = |container: &&Container<'_>| {
                let code = container.last_end().and_then(|(_, end)| end.get("exitCode")?.as_u64());
                code == Some(u64::from(exit_code::USAGE))
            };
            let sidecar = case.sidecars.iter().find(usage)?;
            let said = case.said(sidecar);
            let line = said.iter().find(|(_, line)| line.contains("error")).or(said.first());
            let quotes = line.map(|(source, line)| quote(source.clone(), line)).into_iter().collect();
            Some(Found::of(sidecar, "The sidecar does not take its options.", quotes))
        },
    },
    // --- the store ---
    Row {
        code: "no-bucket",
        title: "There is no such bucket",
        likelihood: Certain,
        meaning: "The bucket does not exist, or not at this endpoint or in this region. The application gets ENXIO.",
        remedy: &[
            "Correct the mountPoint, the endpoint or the region of the Dataset, then create the Pod anew.",
        ],
        explains: EFFECTS,
        check: |case| {
            let (container, said) = case.says(&[NO_BUCKET])?;
            Some(Found::of(&container, "The store has no such bucket.", vec![said]))
        },
    },
    Row {
        code: "store-refuses",
        title: "The store refuses access",
        likelihood: Certain,
        meaning: "The store answers 403 or does not know the key or the signature: the keys are wrong or have expired, the role or \
                  the policy of the bucket does not allow it, or the region is wrong. The application gets EACCES.",
        remedy: &[
            "Correct the Secret that the Dataset names in encryptOptions (kubelet gives changed keys to new containers), the role, \
             or the policy of the bucket. The message has the store's own code.",
            "kubectl get secrets --namespace {namespace}",
        ],
        explains: EFFECTS,
        check: |case| {
            let (container, said) = case.says(&[REFUSES])?;
            Some(Found::of(&container, "The store refuses access.", vec![said]))
        },
    },
    Row {
        code: "store-unavailable",
        title: "The store cannot be reached, or fails",
        likelihood: Certain,
        meaning: "Requests to the store fail: its address or port is wrong, a network policy or a proxy is between, or it is down. \
                  Reads are retried until --io-timeout; then the application gets EIO.",
        remedy: &[
            "Check the endpoint of the Dataset, and whether the Pod reaches it (network policies, security groups, proxies):",
            "kubectl logs {pod} --container {container} --namespace {namespace}",
            "kubectl get networkpolicies --namespace {namespace}",
        ],
        explains: EFFECTS,
        check: |case| {
            let ended = case.sidecars.iter().find_map(|sidecar| {
                let said = case.said(sidecar);
                let (source, line) = said.iter().find(|(source, line)| {
                    source.contains("terminated.message") && line.contains(UNAVAILABLE)
                })?;
                Some((*sidecar, quote(source.clone(), line)))
            });
            let (container, said) = ended.or_else(|| case.says_now(&[OUTAGE_BEGAN], &[OUTAGE_ENDED]))?;
            Some(Found::of(&container, "The store cannot be reached, or fails.", vec![said]))
        },
    },
    Row {
        code: "store-silent",
        title: "The store does not answer",
        likelihood: Certain,
        meaning: "Operations wait for the store, which has said nothing for seconds. They fail with EIO after --io-timeout (60 s).",
        remedy: &[
            "See whether the store is well, and whether anything between drops packets. The log says when it answers again:",
            "kubectl logs {pod} --container {container} --namespace {namespace}",
        ],
        explains: EFFECTS,
        check: |case| {
            let (container, said) = case.says_now(&[SILENT], &[ANSWERS_AGAIN, OUTAGE_ENDED])?;
            Some(Found::of(&container, "The store does not answer.", vec![said]))
        },
    },
    // --- memory ---
    Row {
        code: "sidecar-memory",
        title: "The sidecar ran out of memory",
        likelihood: Certain,
        meaning: "The kernel killed the sidecar at its memory limit. Until it is back the application waits, if a container \
                  fluid-fuse-mount holds the mount, and gets ENOTCONN otherwise. The sidecar needs --memory and 24 MB, a quarter of \
                  --memory for many names, and up to 70 MiB for each large file that is written.",
        remedy: &[
            "Ask for more by the annotation fluid-sidecar-policy/memory of the Pod's template, as far as podOverrides allows it, or \
             have the administrator raise sidecars.RUNTIME.limits; 512Mi serve most Pods. If FLUID_FUSE_MEMORY is set, keep it \
             40 % of the limit.",
        ],
        explains: EFFECTS,
        check: sidecar_memory,
    },
    Row {
        code: "application-memory",
        title: "The application ran out of memory",
        likelihood: Certain,
        meaning: "The kernel killed the application at its own memory limit. Pages of files that it maps count, too; the memory of \
                  the sidecar does not.",
        remedy: &["Raise resources.limits.memory of the container, or have it read instead of mmap."],
        explains: &["application-fails"],
        check: |case| out_of_memory(&case.applications, "application").map(|(_, found)| found),
    },
    // --- the sidecar has failed ---
    Row {
        code: "gate-failed",
        title: "The sidecar was not ready in time",
        likelihood: Likely,
        meaning: "The hook that holds the application back waits for gateTimeoutSeconds (five minutes). kubelet then ends the \
                  sidecar and starts it again.",
        remedy: &[
            "The log of the sidecar says what it waited for. A slow store needs a longer gateTimeoutSeconds, by the administrator.",
            "kubectl logs {pod} --container {container} --namespace {namespace} --previous",
        ],
        explains: &["sidecar-fails", "application-fails", "mount-was-lost"],
        check: gate_failed,
    },
    Row {
        code: "gate-waits",
        title: "The sidecar has started, and waits for its store",
        likelihood: Likely,
        meaning: "The hook that holds the application back has not returned: the store has not answered yet. While a hook runs, kubelet \
                  says ContainerCreating (or PodInitializing) and gives out no log. After gateTimeoutSeconds (five minutes) the \
                  reason is in the termination message of the sidecar.",
        remedy: &[
            "Wait for that, then ask again. Meanwhile check the endpoint of the Dataset, and whether the Pod reaches it (network \
             policies, security groups, proxies):",
            "kubectl get networkpolicies --namespace {namespace}",
        ],
        explains: &["application-fails"],
        check: gate_waits,
    },
    Row {
        code: "sidecar-fails",
        title: "The sidecar fails",
        likelihood: Likely,
        meaning: "The sidecar has ended although the Pod has not. What it said last is quoted.",
        remedy: &[
            "kubectl logs {pod} --container {container} --namespace {namespace} --previous",
            "kubectl describe pod {pod} --namespace {namespace}",
        ],
        explains: &["application-fails", "mount-was-lost"],
        check: sidecar_fails,
    },
    Row {
        code: "mount-was-lost",
        title: "The container that mounts was started again under a running application",
        likelihood: Likely,
        meaning: "A container fluid-fuse-mount, if the Pod has one, mounts the Dataset; otherwise the sidecar does so itself. While it \
                  was away the application got ENOTCONN (Transport endpoint is not connected). What it opens now is \
                  the Dataset again, but files that were open then, and mounts with a subPath, fail until the container is started \
                  again.",
        remedy: &[
            "Have the program open its files again, or start the Pod anew:",
            "kubectl delete pod {pod} --namespace {namespace}",
            "The log of the container before says why it ended:",
            "kubectl logs {pod} --container {container} --namespace {namespace} --previous",
        ],
        explains: &["application-fails", "sidecar-restarted"],
        check: mount_was_lost,
    },
    Row {
        code: "sidecar-stays",
        title: "The application has ended, and the sidecar runs on",
        likelihood: Certain,
        meaning: "All containers of the owner have ended, but nobody ends the sidecar, so a Job does not complete. The setting exit of \
                  the destination does not fit the platform.",
        remedy: &[
            "The administrator chooses another exit for the destination (destinations.DESTINATION.exit): processNamespace, or \
             order: nativeSidecar with exit: kubelet. To let this Pod end:",
            "kubectl exec {pod} --container {container} --namespace {namespace} -- fluid-fuse unmount",
        ],
        explains: &[],
        check: sidecar_stays,
    },
    // --- what may be ---
    Row {
        code: "sidecar-changed",
        title: "The sidecar is not as the policy injected it",
        likelihood: Possible,
        meaning: "Injected anew, the Pod would differ in the field that is named: another webhook changed it, or the Dataset or its \
                  Runtime has changed since.",
        remedy: &[
            "If the Dataset was changed, create the Pod anew. Otherwise look for the webhook:",
            "kubectl get mutatingwebhookconfigurations",
        ],
        explains: &[],
        check: sidecar_changed,
    },
    Row {
        code: "dataset-not-bound",
        title: "The Dataset is not bound any more",
        likelihood: Possible,
        meaning: "The Pod was injected, but Fluid now says that the Dataset is not Bound. A sidecar that reads the object store itself \
                  works on; one that needs the Runtime's cache may not.",
        remedy: &["kubectl describe dataset --namespace {namespace}"],
        explains: &[],
        check: |case| {
            case.status.as_ref()?;
            let phase = |it: &Value| text(it, "/status/phase").to_string();
            let dataset = case.evidence.of_kind("Dataset").find(|it| phase(it) != "Bound")?;
            let source = format!("Dataset {}, status.phase", text(dataset, "/metadata/name"));
            Some(Found::new("A Dataset of the Pod is not bound.", vec![quote(source, &phase(dataset))]))
        },
    },
    Row {
        code: "store-was-away",
        title: "The store was away for a while",
        likelihood: Possible,
        meaning: "The store did not answer, and does again. What was read meanwhile waited, and failed with EIO after --io-timeout \
                  (60 s).",
        remedy: &[
            "Have the program try again after EIO. If it happens often, look at the store and the network.",
        ],
        explains: &["slow"],
        check: |case| {
            let (container, said) = case.says(&[OUTAGE_ENDED, ANSWERS_AGAIN])?;
            Some(Found::of(&container, "The store was away for a while.", vec![said]))
        },
    },
    Row {
        code: "sidecar-restarted",
        title: "The sidecar was started again, and the application waited",
        likelihood: Possible,
        meaning: "The container fluid-fuse-mount has kept the mount while the sidecar was away, so reads and writes waited, files stayed \
                  open, and nothing was lost but the sidecar's cache.",
        remedy: &[
            "Nothing if it happens once. The log of the sidecar before says why it ended:",
            "kubectl logs {pod} --container {container} --namespace {namespace} --previous",
        ],
        explains: &[],
        check: sidecar_restarted,
    },
    Row {
        code: "reads-failed",
        title: "Reads have failed",
        likelihood: Possible,
        meaning: "The metrics of the sidecar count reads that were answered with an error.",
        remedy: &[
            "docs/data-engineers.md (My program gets an error) explains each error; the log has the reasons:",
            "kubectl logs {pod} --container {container} --namespace {namespace}",
        ],
        explains: &[],
        check: |case| {
            let failed = |line: &&str| line.starts_with(READ_ERRORS) && !line.ends_with(" 0");
            case.sidecars.iter().find_map(|sidecar| {
                let lines: Vec<_> = case.evidence.metrics.get(sidecar.name)?.lines().filter(failed).collect();
                let source = format!("metrics of container {}", sidecar.name);
                (!lines.is_empty())
                    .then(|| Found::of(sidecar, "Reads have failed.", vec![quote(source, &lines.join(", "))]))
            })
        },
    },
    Row {
        code: "processor",
        title: "The sidecar may have too little of a processor",
        likelihood: Possible,
        meaning: "The sidecar takes 0.6 s of a processor for each GiB that it reads, more with TLS; a small cpu limit throttles it, and \
                  reads become slow.",
        remedy: &[
            "Ask for more by the annotation fluid-sidecar-policy/cpu of the Pod's template, as far as podOverrides allows it, or have \
             the administrator raise or remove sidecars.RUNTIME.limits.cpu. What it uses:",
            "kubectl top pod {pod} --containers --namespace {namespace}",
        ],
        explains: &["slow"],
        check: processor,
    },
    Row {
        code: "slow",
        title: "The store is slow",
        likelihood: Possible,
        meaning: "Reads took longer than --slow-read (5 s), though they were answered.",
        remedy: &[
            "Compare the mount with its store; docs/data-engineers.md (Making it faster) has what helps:",
            "kubectl exec {pod} --container {container} --namespace {namespace} -- fluid-fuse bench",
        ],
        explains: &[],
        check: |case| {
            let (container, said) = case.says(&[SLOW_READ, WAITS])?;
            Some(Found::of(&container, "Reads are slow.", vec![said]))
        },
    },
    Row {
        code: "other-settings",
        title: "The policy has other settings since",
        likelihood: Possible,
        meaning: "The Pod was injected by settings that the policy does not have any more. It keeps what it has.",
        remedy: &[
            "If the change was meant for it, create the Pod anew:",
            "kubectl delete pod {pod} --namespace {namespace}",
        ],
        explains: &["sidecar-changed"],
        check: other_settings,
    },
    Row {
        code: "application-fails",
        title: "The application fails",
        likelihood: Possible,
        meaning: "A container of the owner has ended with an error, and nothing else was found: the sidecar may have nothing to do \
                  with it.",
        remedy: &[
            "Look for EIO, EACCES or ENOTCONN in its log; docs/data-engineers.md (My program gets an error) explains each:",
            "kubectl logs {pod} --container {container} --namespace {namespace} --previous",
        ],
        explains: &[],
        check: application_fails,
    },
    Row {
        code: "unread",
        title: "Something could not be read",
        likelihood: Possible,
        meaning: "The API server did not answer a read, so the cause may be in what was not seen.",
        remedy: &["Try again."],
        explains: &[],
        check: |case| {
            let failed: Vec<_> = case.evidence.unread.iter().filter(|it| !it.forbidden).collect();
            (!failed.is_empty()).then(|| {
                let quotes = failed.iter().map(|it| quote(it.what.clone(), &it.message)).collect();
                Found::new("Not everything could be read.", quotes)
            })
        },
    },
    Row {
        code: MISSING_RIGHTS,
        title: "You may not see everything",
        likelihood: Possible,
        meaning: "Your account lacks a right, so the cause may be in what was not seen. Whoever may grant rights runs the commands.",
        remedy: &["Have them granted, then ask again:"],
        explains: &[],
        check: |case| {
            let denied: Vec<_> = case.evidence.unread.iter().filter(|it| it.forbidden).collect();
            (!denied.is_empty()).then(|| {
                let quotes = denied.iter().map(|it| quote(it.what.clone(), &it.message)).collect();
                Found::new("Your account may not see everything.", quotes)
            })
        },
    },
];

fn uninjected(case: &Case<'_>, code: &str) -> Option<Found> {
    case.uninjected.as_ref().filter(|(found, _)| *found == code).map(|(_, found)| found.clone())
}

/// What the scheduler says of a Pod that has no node.
fn unschedulable<'e>(case: &Case<'e>) -> Option<&'e str> {
    let condition = list(case.pod?, "/status/conditions").iter().find(|it| {
        text(it, "/type") == "PodScheduled"
            && text(it, "/reason") == "Unschedulable"
            && text(it, "/status") == "False"
    })?;
    Some(text(condition, "/message"))
}

fn claim_pending(case: &Case<'_>) -> Option<Found> {
    let (name, claim) = case
        .claims()
        .into_iter()
        .filter_map(|name| Some((name, case.claim(name)?)))
        .find(|(_, claim)| !matches!(text(claim, "/status/phase"), "Bound" | ""))?;
    let mut quotes =
        vec![quote(format!("PersistentVolumeClaim {name}, status.phase"), text(claim, "/status/phase"))];
    if let Some(event) = case.evidence.events("PersistentVolumeClaim", name).last() {
        quotes.push(quote(format!("event {} of the claim", text(event, "/reason")), text(event, "/message")));
    }
    Some(Found::new(format!("Claim {name} has no volume."), quotes))
}

fn sidecar_removed(case: &Case<'_>) -> Option<Found> {
    let status = case.status.as_ref()?;
    let missing =
        status.sidecars.iter().find(|it| case.sidecars.iter().all(|has| has.name != it.container))?;
    let mut quotes = vec![quote(
        format!("annotation {ANNOTATION}"),
        &format!("container {} serves Dataset {}", missing.container, missing.dataset),
    )];
    let others = case.evidence.of_kind("MutatingWebhookConfiguration").map(|it| text(it, "/metadata/name"));
    let others: Vec<_> =
        others.filter(|name| case.policies.iter().all(|policy| policy.name != *name)).collect();
    let others = if others.is_empty() { "none now".to_string() } else { others.join(", ") };
    quotes.push(quote("other webhooks that may change Pods", &others));
    Some(Found::new(
        format!("The Pod was injected, but it has no container {} any more.", missing.container),
        quotes,
    ))
}

/// Containers, sidecars first.
fn everything<'c, 'e>(case: &'c Case<'e>) -> impl Iterator<Item = &'c Container<'e>> {
    case.sidecars.iter().chain(&case.applications)
}

fn image(case: &Case<'_>) -> Option<Found> {
    let (container, (reason, message)) = everything(case)
        .filter_map(|container| Some((container, container.waits()?)))
        .find(|(_, (reason, _))| IMAGE_REASONS.contains(reason))?;
    let image = text(container.spec, "/image");
    let sentence = format!("The image of container {} cannot be pulled: {image}.", container.name);
    Some(Found::of(container, sentence, vec![container.quote(&format!("waiting: {reason}"), message)]))
}

fn missing_object(case: &Case<'_>) -> Option<Found> {
    let waits = everything(case)
        .filter_map(|container| Some((container, container.waits()?)))
        .find(|(_, (reason, _))| CREATE_REASONS.contains(reason));
    if let Some((container, (reason, message))) = waits {
        let sentence = format!("Container {} cannot be made.", container.name);
        return Some(Found::of(
            container,
            sentence,
            vec![container.quote(&format!("waiting: {reason}"), message)],
        ));
    }
    // A volume that cannot be set up keeps all containers waiting.
    everything(case).find(|it| {
        it.waits().is_some_and(|(reason, _)| reason == "ContainerCreating" || reason == "PodInitializing")
    })?;
    let events = case.pod_events("FailedMount");
    let event = events.iter().rev().find(|event| text(event, "/message").contains("not found"))?;
    Some(Found::new("A volume of the Pod cannot be set up.", vec![pod_event(event)]))
}

fn sidecar_memory(case: &Case<'_>) -> Option<Found> {
    let (container, mut found) = out_of_memory(&case.sidecars, "sidecar")?;
    if case.has_holder(container) {
        found.sentence.push_str(" The application waits while it is away.");
    }
    Some(found)
}

fn out_of_memory<'c, 'e>(containers: &'c [Container<'e>], which: &str) -> Option<(&'c Container<'e>, Found)> {
    let killed = |container: &&Container<'_>| {
        let fields = ["/state/terminated/reason", "/lastState/terminated/reason"];
        fields.iter().any(|field| text(container.status, field) == "OOMKilled")
    };
    let container = containers.iter().find(killed)?;
    let limit = container.limit("memory");
    let quotes = vec![
        container.quote("lastState.terminated.reason", "OOMKilled"),
        container
            .quote("resources.limits.memory", limit.unwrap_or("none: the node, or the Pod, had no more")),
    ];
    let limit = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    let sentence = format!("The {which} (container {}) ran out of its memory{limit}.", container.name);
    Some((container, Found::of(container, sentence, quotes)))
}

fn gate_failed(case: &Case<'_>) -> Option<Found> {
    if let Some((container, said)) = case.says(&[NOT_READY, NEVER_READY]) {
        return Some(Found::of(&container, "The sidecar was not ready in time.", vec![said]));
    }
    let events = case.pod_events("FailedPostStartHook");
    let event = events.last()?;
    let field = text(event, "/involvedObject/fieldPath");
    let container = case
        .sidecars
        .iter()
        .find(|sidecar| field.contains(&format!("{{{}}}", sidecar.name)))
        .filter(|sidecar| !sidecar.is_well())?;
    Some(Found::of(container, "The sidecar was not ready in time.", vec![pod_event(event)]))
}

/// A sidecar that kubelet has started, though its state does not say so yet.
fn gate_waits(case: &Case<'_>) -> Option<Found> {
    let events = case.pod_events("Started");
    let started = |container: &Container<'_>| {
        let field = format!("{{{}}}", container.name);
        events.iter().rev().find(|event| text(event, "/involvedObject/fieldPath").ends_with(&field)).copied()
    };
    case.sidecars.iter().find_map(|sidecar| {
        let (reason, _) = sidecar
            .waits()
            .filter(|(reason, _)| *reason == "ContainerCreating" || *reason == "PodInitializing")?;
        let event = started(sidecar)?;
        let age = case.evidence.age(&event_time(event))?;
        let quotes = vec![sidecar.quote("state.waiting.reason", reason), pod_event(event)];
        (age >= GATE_PASSES_WITHIN_SECONDS).then(|| {
            let sentence =
                format!("The sidecar {} was started {age} s ago, and waits for its store.", sidecar.name);
            Found::of(sidecar, sentence, quotes)
        })
    })
}

fn sidecar_fails(case: &Case<'_>) -> Option<Found> {
    if is_over(case) {
        return None;
    }
    let failed = |container: &&Container<'_>| {
        let code =
            container.last_end().and_then(|(_, end)| end.get("exitCode")?.as_i64()).unwrap_or_default();
        code != 0 && container.runs_since().is_none()
    };
    let container = case.sidecars.iter().find(failed)?;
    let (field, end) = container.last_end()?;
    let code = end.get("exitCode").and_then(Value::as_i64).unwrap_or_default();
    let mut quotes = vec![container.quote(field, &format!("exit code {code}, {}", text(end, "/reason")))];
    quotes.extend(case.said(container).first().map(|(source, line)| quote(source.clone(), line)));
    Some(Found::of(container, format!("The sidecar {} has ended.", container.name), quotes))
}

/// Whether the Pod has ended or is about to.
fn is_over(case: &Case<'_>) -> bool {
    case.pod.is_some_and(|pod| {
        matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
            || pod.pointer("/metadata/deletionTimestamp").is_some()
    })
}

fn mount_was_lost(case: &Case<'_>) -> Option<Found> {
    restarted_under_application(case, |sidecar| !case.has_holder(sidecar))
}

fn sidecar_restarted(case: &Case<'_>) -> Option<Found> {
    restarted_under_application(case, |sidecar| case.has_holder(sidecar))
}

/// The first of these sidecars that began to run after an application did.
fn restarted_under_application(case: &Case<'_>, which: impl Fn(&Container<'_>) -> bool) -> Option<Found> {
    if is_over(case) {
        return None;
    }
    let restarted = case.sidecars.iter().filter(|it| which(it) && it.restarts() > 0).find_map(|sidecar| {
        let since = sidecar.runs_since()?;
        let before =
            case.applications.iter().find(|it| it.runs_since().is_some_and(|begun| begun < since))?;
        Some((sidecar, since, before))
    });
    let (sidecar, since, application) = restarted?;
    let quotes = vec![
        sidecar.quote("restartCount", &sidecar.restarts().to_string()),
        sidecar.quote("state.running.startedAt", since),
        application.quote("state.running.startedAt", application.runs_since().unwrap_or_default()),
    ];
    let sentence =
        format!("The sidecar {} was started again while container {} ran.", sidecar.name, application.name);
    Some(Found::of(sidecar, sentence, quotes))
}

fn sidecar_stays(case: &Case<'_>) -> Option<Found> {
    let pod = case.pod.filter(|_| !is_over(case) && !case.applications.is_empty())?;
    let sidecar =
        case.sidecars.iter().find(|sidecar| !sidecar.is_native && sidecar.runs_since().is_some())?;
    let ends: Option<Vec<_>> =
        case.applications.iter().map(|it| it.status.pointer("/state/terminated")).collect();
    let last = ends?.into_iter().map(|end| text(end, "/finishedAt")).max()?;
    let age = case.evidence.age(last)?;
    let settles = list(sidecar.spec, "/env").iter().any(|it| text(it, "/name") == env::EXIT_SETTLE);
    if age < if settles { SETTLES_WITHIN_SECONDS } else { ENDS_WITHIN_SECONDS } {
        return None;
    }
    let quotes = vec![
        quote("the last application container, state.terminated.finishedAt", last),
        sidecar.quote("state.running.startedAt", sidecar.runs_since().unwrap_or_default()),
        quote("spec.restartPolicy", text(pod, "/spec/restartPolicy")),
    ];
    let sentence = format!("The application ended {age} s ago, and the sidecar {} runs on.", sidecar.name);
    Some(Found::of(sidecar, sentence, quotes))
}

/// What the policy would say with `mode: verify`.
fn sidecar_changed(case: &Case<'_>) -> Option<Found> {
    let status = case.status.as_ref()?;
    let known: Vec<Value> = case.asked().into_iter().filter_map(|policy| policy.settings()).collect();
    let mut settings = known.into_iter().find(|settings| settings::hash(settings) == status.settings)?;
    settings.as_object_mut()?.insert("mode".into(), "verify".into());
    let verdict = Verdict::of(case.evidence, case.pod?, &settings);
    let damaged = verdict.because(&[Code::Damaged])?;
    Some(Found::new(
        "The sidecar is not as the policy would inject it now.",
        vec![quote("the policy says", damaged)],
    ))
}

fn processor(case: &Case<'_>) -> Option<Found> {
    let slow = case.says(&[SLOW_READ, WAITS]);
    let small = |container: &&Container<'_>| {
        let limit = container.limit("cpu").and_then(millicores);
        let floor = if slow.is_some() { SMALL_MILLICORES } else { TINY_MILLICORES };
        limit.is_some_and(|limit| limit < floor)
    };
    let container =
        case.sidecars.iter().find(|it| it.runs_since().is_some() && !case.is_holder(it)).filter(small)?;
    let limit = container.limit("cpu").unwrap_or_default();
    let mut quotes = vec![container.quote("resources.limits.cpu", limit)];
    quotes.extend(slow.map(|(_, said)| said));
    let sentence = format!("The sidecar may be slowed down by its cpu limit of {limit}.");
    Some(Found::of(container, sentence, quotes))
}

/// An amount of cpu in thousandths.
fn millicores(amount: &str) -> Option<u64> {
    match amount.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().ok(),
        None => amount.parse::<f64>().ok().filter(|cores| *cores >= 0.0).map(|cores| (cores * 1000.0) as u64),
    }
}

fn other_settings(case: &Case<'_>) -> Option<Found> {
    let status = case.status.as_ref()?;
    let asked = case.asked();
    let settings: Option<Vec<Value>> = asked.iter().map(|policy| policy.settings()).collect();
    let hashes: Vec<String> = settings?.iter().map(settings::hash).collect();
    if hashes.is_empty() || hashes.contains(&status.settings) {
        return None;
    }
    let quotes = vec![
        quote(format!("annotation {ANNOTATION}, settings"), &status.settings),
        quote("the hash of the settings of the policy now", &hashes.join(", ")),
    ];
    Some(Found::new("The Pod was injected by settings that the policy does not have any more.", quotes))
}

fn application_fails(case: &Case<'_>) -> Option<Found> {
    let failed = |container: &&Container<'_>| {
        let code =
            container.last_end().and_then(|(_, end)| end.get("exitCode")?.as_i64()).unwrap_or_default();
        code != 0
    };
    let container = case.applications.iter().find(failed)?;
    let (field, end) = container.last_end()?;
    let code = end.get("exitCode").and_then(Value::as_i64).unwrap_or_default();
    let mut quotes = vec![container.quote(field, &format!("exit code {code}, {}", text(end, "/reason")))];
    let message = text(end, "/message");
    if !message.is_empty() {
        quotes.push(container.quote(&format!("{field}.message"), message));
    }
    Some(Found::of(container, format!("Container {} ended with exit code {code}.", container.name), quotes))
}
