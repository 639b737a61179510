//! The yardstick for the cost of a review (`bench/review.md`): a policy that makes the same four reads for the Pod of
//! `tests/fluid/seed-pod` and returns the same Pod as the real one, without a decision.
//!
//! It is written as policies on Kubewarden's SDK usually are, and everything that it adds is a constant. Its answer
//! must be about as long as that of the real policy; the test that compares the costs checks it.
#![cfg(target_arch = "wasm32")]

use kubewarden_policy_sdk::host_capabilities::kubernetes::{GetResourceRequest, get_resource};
use kubewarden_policy_sdk::request::ValidationRequest;
use kubewarden_policy_sdk::response::ValidationResponse;
use kubewarden_policy_sdk::settings::SettingsValidationResponse;
use kubewarden_policy_sdk::{accept_request, protocol_version_guest};
use serde::Deserialize;
use serde_json::{Value, json};
use wapc_guest::{CallResult, register_function};

#[path = "../../../src/allocator.rs"]
mod allocator;

/// There are none.
#[derive(Default, Deserialize)]
struct Settings {}

#[allow(unsafe_code, reason = "waPC looks the function up by this name; nothing else exports it")]
#[unsafe(no_mangle)]
extern "C" fn wapc_init() {
    register_function("validate", validate);
    register_function("validate_settings", validate_settings);
    register_function("protocol_version", protocol_version_guest);
}

fn validate_settings(_: &[u8]) -> CallResult {
    Ok(serde_json::to_vec(&SettingsValidationResponse { valid: true, message: None })?)
}

fn validate(payload: &[u8]) -> CallResult {
    let mut pod = ValidationRequest::<Settings>::new(payload)?.request.object;
    read("v1", "PersistentVolumeClaim", Some("default"), "data", &["spec.volumeName"])?;
    let dataset = ["status.conditions", "status.phase", "status.runtimes"];
    read("data.fluid.io/v1alpha1", "Dataset", Some("default"), "data", &dataset)?;
    read("v1", "PersistentVolume", None, "default-data", &["spec.claimRef", "spec.csi"])?;
    read("apps/v1", "DaemonSet", Some("default"), "data-jindofs-fuse", &["spec.template.spec"])?;

    let Some(Value::Array(containers)) = pod.pointer_mut("/spec/containers") else { return accept_request() };
    containers.insert(0, sidecar());
    containers[1]["volumeMounts"][0]["mountPropagation"] = "HostToContainer".into();
    pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] = "app".into();
    pod["metadata"]["annotations"][ANNOTATION] = STATUS.into();
    pod["spec"]["terminationGracePeriodSeconds"] = 60.into();
    pod["spec"]["volumes"] = json!([
        {"name": "data", "hostPath": {"path": "/runtime-mnt/jindo/default/data/jindofs-fuse"}},
        {"name": "fluid-fuse-no-token", "emptyDir": {}},
        {"name": "bigboot-config", "configMap": {"name": "data-jindofs-config"}},
    ]);
    let annotations = [("decision", "injected"), ("reasons", REASONS)];
    Ok(serde_json::to_vec(&ValidationResponse {
        accepted: true,
        message: None,
        code: None,
        mutated_object: Some(pod),
        audit_annotations: Some(annotations.map(|(key, text)| (key.into(), text.into())).into()),
        warnings: None,
    })?)
}

fn read(
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    field_masks: &[&str],
) -> kubewarden_policy_sdk::Result<Value> {
    get_resource(&GetResourceRequest {
        api_version: api_version.into(),
        kind: kind.into(),
        name: name.into(),
        namespace: namespace.map(Into::into),
        disable_cache: false,
        field_masks: Some(field_masks.iter().map(|mask| mask.to_string()).collect()),
    })
}

const ANNOTATION: &str = "fluid-sidecar-policy/injected";

const STATUS: &str = r#"{"destination":"eci","settings":"08f44b07b5901a25","sidecars":[{"container":"fluid-fuse","dataset":"default/data","volumes":["fluid-fuse-no-token","bigboot-config"]}],"claims":[{"volume":"data","persistentVolumeClaim":{"claimName":"data"}}],"terminationGracePeriodSeconds":null,"defaultContainer":true}"#;

const REASONS: &str = "serverless: the Pod goes to eci (label alibabacloud.com/fluid-sidecar-target=eci)
injected: container fluid-fuse serves Dataset default/data as volume data
template-reduced: container fluid-fuse runs without hostPath volume datavolume-1
grace-period-raised: terminationGracePeriodSeconds is raised to 60, which the sidecar needs to end";

const GATE: &str = r#"if [ -x "$3" ]; then exec "$3"; fi
left=$2
while :; do
  while read -r _ _ _ _ mount_point _; do
    if [ "$mount_point" = "$1" ]; then exit 0; fi
  done < /proc/self/mountinfo
  if [ "$left" -le 0 ]; then echo "nothing is mounted on $1 after $2 s" >&2; exit 1; fi
  left=$((left - 1))
  sleep 1
done"#;

fn sidecar() -> Value {
    json!({
        "args": [
            "-oauto_cache",
            "-oattr_timeout=0",
            "-oentry_timeout=0",
            "-onegative_timeout=0",
            "-ono_symlink"
        ],
        "command": [
            "/entrypoint.sh"
        ],
        "env": [
            {
                "name": "CLIENT_NAMESPACE_RPC_ADDRESS",
                "value": "data-jindofs-master-0.default:8101"
            },
            {
                "name": "FLUID_FUSE_MOUNTPOINT",
                "value": "/jfs/jindofs-fuse"
            },
            {
                "name": "FLUID_FUSE_MODE",
                "value": "fuse"
            },
            {
                "name": "FLUID_RUNTIME_TYPE",
                "value": "jindofs"
            },
            {
                "name": "FLUID_RUNTIME_NS",
                "value": "default"
            },
            {
                "name": "FLUID_RUNTIME_NAME",
                "value": "data"
            },
            {
                "name": "ECI_CONTAINER_TYPE",
                "value": "sidecar"
            },
            {
                "name": "ECI_CONTAINER_IGNORE_EXIT_CODE",
                "value": "true"
            },
            {
                "name": "ECI_CONTAINER_LAUNCH_PRIORITY",
                "value": "1000"
            },
            {
                "name": "ECI_CONTAINER_EXIT_PRIORITY",
                "value": "-1000"
            }
        ],
        "image": "reg.test/jindo-fuse:6.2.0",
        "imagePullPolicy": "IfNotPresent",
        "lifecycle": {
            "postStart": {
                "exec": {
                    "command": [
                        "sh",
                        "-c",
                        GATE,
                        "gate",
                        "/jfs/jindofs-fuse",
                        "300",
                        "/tools/ioctl_sync"
                    ]
                }
            }
        },
        "name": "fluid-fuse",
        "ports": [
            {
                "containerPort": 15000,
                "name": "jindo-metrics"
            }
        ],
        "readinessProbe": {
            "exec": {
                "command": [
                    "sh",
                    "-c",
                    GATE,
                    "gate",
                    "/jfs/jindofs-fuse",
                    "0",
                    "/tools/ioctl_sync"
                ]
            },
            "periodSeconds": 2,
            "timeoutSeconds": 2
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            "limits": {
                "alibabacloud.com/vfuse": "1",
                "cpu": "2",
                "memory": "4Gi"
            },
            "requests": {
                "alibabacloud.com/vfuse": "1",
                "cpu": "100m",
                "memory": "256Mi"
            }
        },
        "securityContext": {
            "privileged": false,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0
        },
        "volumeMounts": [
            {
                "mountPath": "/jindocache.cfg",
                "name": "bigboot-config",
                "subPath": "jindocache.cfg"
            },
            {
                "mountPath": "/hdfs-3.2.1/etc/hadoop/core-site.xml",
                "name": "bigboot-config",
                "subPath": "core-site.xml"
            },
            {
                "mountPath": "/jindosdk.cfg",
                "name": "bigboot-config",
                "subPath": "jindosdk.cfg"
            },
            {
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "name": "fluid-fuse-no-token",
                "readOnly": true
            }
        ]
    })
}
