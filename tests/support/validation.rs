//! Would the API server take this Pod? A port of those rules of Kubernetes' `pkg/apis/core/validation` (about 1.35)
//! that a policy which adds containers, volumes and mounts can break.
//!
//! Each function names the one it ports. Values that the API server fills in before it validates (a protocol, a
//! success threshold, requests equal to limits, host ports of a Pod on the host's network) count as filled in.
//! Fields that are not known here are not looked at. Where versions differ the strictest is taken, so that what
//! passes here passes everywhere:
//! - a volume without a source is refused, where the API server makes an emptyDir of it: nobody means that;
//! - a negative terminationGracePeriodSeconds is refused, where it becomes 1;
//! - `restartPolicy` of a container that is no init container is refused, as before 1.35.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde_json::Value;

/// What the API server would say of a Pod that is created: `<field path>: <message>`, in the order of its checks,
/// each once.
pub fn violations(pod: &Value) -> Vec<String> {
    let found = RefCell::default();
    validate_pod_create(&Field { path: String::new(), value: pod, found: &found });
    let mut said = BTreeSet::new();
    let all = found.into_inner().into_iter();
    all.filter(|violation| said.insert(violation.clone())).collect()
}

// --- reading -----------------------------------------------------------------------------------------------

/// A value and where it stands. Absent and `null` are the same; a value of the wrong type is a violation.
struct Field<'a> {
    path: String,
    value: &'a Value,
    found: &'a RefCell<Vec<String>>,
}

impl<'a> Field<'a> {
    fn refuse(&self, message: impl Display) {
        self.found.borrow_mut().push(format!("{}: {message}", self.path));
    }

    /// As above, for a field that may be absent.
    fn refuse_at(&self, key: &str, message: impl Display) {
        self.found.borrow_mut().push(format!("{}: {message}", self.path_of(key)));
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &str) -> Option<Field<'a>> {
        if !self.value.is_object() {
            self.refuse("must be a map");
            return None;
        }
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Field { path: self.path_of(key), value, found: self.found })
    }

    fn typed<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let field = self.get(key)?;
        let value = read(field.value);
        if value.is_none() {
            field.refuse(format!("must be {what}"));
        }
        value
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.typed(key, "a string", Value::as_str)
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.typed(key, "a number", Value::as_i64)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.typed(key, "a boolean", Value::as_bool)
    }

    /// An absent or empty string is missing.
    fn required(&self, key: &str) -> Option<&'a str> {
        let text = self.text(key).filter(|text| !text.is_empty());
        if text.is_none() {
            self.refuse_at(key, "required");
        }
        text
    }

    fn one_of(&self, key: &str, allowed: &[&str]) {
        if let Some(text) = self.text(key).filter(|text| !allowed.contains(text)) {
            self.refuse_at(key, format!("{text:?} is none of {}", allowed.join(", ")));
        }
    }

    fn list(&self, key: &str) -> Vec<Field<'a>> {
        let Some(entries) = self.typed(key, "a list", Value::as_array) else { return Vec::new() };
        let path = self.path_of(key);
        let field = |(index, value)| Field { path: format!("{path}[{index}]"), value, found: self.found };
        entries.iter().enumerate().map(field).collect()
    }

    fn map(&self, key: &str) -> Vec<(&'a str, Field<'a>)> {
        let Some(entries) = self.typed(key, "a map", Value::as_object) else { return Vec::new() };
        let path = self.path_of(key);
        let field = |(key, value): (&'a String, _)| {
            (key.as_str(), Field { path: format!("{path}[{key}]"), value, found: self.found })
        };
        entries.iter().map(field).collect()
    }
}

// --- names -------------------------------------------------------------------------------------------------

/// `validation.IsDNS1123Label`.
fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_dns_part(name)
}

/// `validation.IsDNS1123Subdomain`.
fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_part)
}

fn is_dns_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !part.is_empty()
        && part.bytes().all(|byte| plain(byte) || byte == b'-')
        && !part.starts_with('-')
        && !part.ends_with('-')
}

/// The name part of a qualified name, and a label's value when it is not empty.
fn is_plain_name(name: &str) -> bool {
    let alphanumeric = |char: char| char.is_ascii_alphanumeric();
    (1..=63).contains(&name.len())
        && name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric)
        && name.chars().all(|char| alphanumeric(char) || "-_.".contains(char))
}

/// `validation.IsQualifiedName`.
fn is_qualified_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_plain_name(name),
        None => is_plain_name(name),
    }
}

/// `validation.IsValidPortName`.
fn is_port_name(name: &str) -> bool {
    is_dns_label(name)
        && name.len() <= 15
        && name.contains(|char: char| char.is_ascii_lowercase())
        && !name.contains("--")
}

/// `validatePathNoBacksteps`.
fn climbs(path: &str) -> bool {
    path.split('/').any(|component| component == "..")
}

// --- quantities --------------------------------------------------------------------------------------------

/// `resource.ParseQuantity`, in billionths; finer ones are rounded up.
fn quantity(value: &Value) -> Option<i128> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let decimal = |exponent: u32| 10i128.checked_pow(exponent);
    let scale = match suffix {
        "n" => 1,
        "u" => decimal(3)?,
        "m" => decimal(6)?,
        "" => decimal(9)?,
        "k" => decimal(12)?,
        "M" => decimal(15)?,
        "G" => decimal(18)?,
        "T" => decimal(21)?,
        "P" => decimal(24)?,
        "E" => decimal(27)?,
        "Ki" => decimal(9)? << 10,
        "Mi" => decimal(9)? << 20,
        "Gi" => decimal(9)? << 30,
        "Ti" => decimal(9)? << 40,
        "Pi" => decimal(9)? << 50,
        "Ei" => decimal(9)? << 60,
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            decimal(u32::try_from(9 + exponent).ok()?)?
        }
    };
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = decimal(u32::try_from(fraction.len()).ok()?)?;
    let product = mantissa.checked_mul(scale)?;
    let rounded = product / divisor + i128::from(product % divisor != 0);
    Some(if negative { -rounded } else { rounded })
}

/// `helper.IsNativeResource`.
fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

/// `helper.IsExtendedResourceName`.
fn is_extended(resource: &str) -> bool {
    !is_native(resource)
        && !resource.starts_with("requests.")
        && is_qualified_name(&format!("requests.{resource}"))
}

/// `helper.IsHugePageResourceName`.
fn is_huge_pages(resource: &str) -> bool {
    resource.starts_with("hugepages-")
}

// --- the Pod -----------------------------------------------------------------------------------------------

/// `ValidatePodCreate`, `validatePodMetadataAndSpec`.
fn validate_pod_create(pod: &Field<'_>) {
    match pod.get("metadata") {
        Some(metadata) => validate_object_meta(&metadata),
        None => pod.refuse_at("metadata", "required"),
    }
    let Some(spec) = pod.get("spec") else {
        pod.refuse_at("spec", "required");
        return;
    };
    validate_pod_spec(&spec);
    if !spec.list("ephemeralContainers").is_empty() {
        spec.refuse_at("ephemeralContainers", "must not be set when the Pod is created");
    }
}

/// `ValidateObjectMeta`, `ValidateLabels`, `ValidateAnnotations`.
fn validate_object_meta(metadata: &Field<'_>) {
    const ANNOTATIONS_MAX: usize = 256 << 10;
    let (name, prefix) = (metadata.text("name"), metadata.text("generateName"));
    if let Some(prefix) =
        prefix.filter(|prefix| !is_dns_subdomain(prefix.strip_suffix('-').unwrap_or(prefix)))
    {
        metadata.refuse_at("generateName", format!("{prefix:?} is no start of a DNS-1123 subdomain"));
    }
    match name.filter(|name| !name.is_empty()) {
        None if prefix.unwrap_or_default().is_empty() => {
            metadata.refuse_at("name", "name or generateName is required");
        }
        Some(name) if !is_dns_subdomain(name) => {
            metadata.refuse_at("name", format!("{name:?} is no DNS-1123 subdomain"));
        }
        _ => {}
    }
    validate_labels(metadata, "labels");
    let mut size = 0;
    for (key, value) in metadata.map("annotations") {
        if !is_qualified_name(&key.to_lowercase()) {
            value.refuse("the key is no qualified name");
        }
        match value.value.as_str() {
            Some(text) => size += key.len() + text.len(),
            None => value.refuse("must be a string"),
        }
    }
    if size > ANNOTATIONS_MAX {
        metadata.refuse_at("annotations", format!("must have at most {ANNOTATIONS_MAX} bytes"));
    }
}

fn validate_labels(holder: &Field<'_>, field: &str) {
    for (key, value) in holder.map(field) {
        if !is_qualified_name(key) {
            value.refuse("the key is no qualified name");
        }
        match value.value.as_str() {
            Some(text) if text.is_empty() || is_plain_name(text) => {}
            Some(text) => value.refuse(format!("{text:?} is no label value")),
            None => value.refuse("must be a string"),
        }
    }
}

/// What the rules for one container need to know of its Pod.
struct Surroundings<'a> {
    /// By name.
    volumes: BTreeMap<&'a str, &'a Value>,
    /// Names of `spec.resourceClaims`.
    resource_claims: BTreeSet<&'a str>,
    grace_period: i64,
    host_network: bool,
    never_restarts: bool,
    has_os: bool,
}

/// `ValidatePodSpec`.
fn validate_pod_spec(spec: &Field<'_>) {
    let grace_period = spec.number("terminationGracePeriodSeconds").unwrap_or(30);
    if grace_period < 0 {
        spec.refuse_at("terminationGracePeriodSeconds", "must not be negative");
    }
    let claims = spec.list("resourceClaims");
    let pod = Surroundings {
        volumes: validate_volumes(spec),
        resource_claims: claims.iter().filter_map(|claim| claim.required("name")).collect(),
        grace_period,
        host_network: spec.flag("hostNetwork") == Some(true),
        never_restarts: spec.text("restartPolicy") == Some("Never"),
        has_os: spec.get("os").is_some(),
    };
    let mut names = BTreeSet::new();
    validate_containers(spec, &pod, &mut names);
    validate_init_containers(spec, &pod, &mut names);
    validate_pod_resources(spec);
    if pod.host_network {
        validate_pod_host_network_deps(spec);
    }
    spec.one_of("restartPolicy", &["Always", "OnFailure", "Never"]);
    spec.one_of("dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    validate_labels(spec, "nodeSelector");
    if let Some(security) = spec.get("securityContext") {
        validate_ids(&security, &["runAsUser", "runAsGroup", "fsGroup"]);
    }
    if spec
        .number("activeDeadlineSeconds")
        .is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds))
    {
        spec.refuse_at("activeDeadlineSeconds", "must be from 1 to 2147483647");
    }
}

/// `ValidateVolumes`, `validateVolumeSource`, `validateHostPathVolumeSource`, `validateHostPathType`.
fn validate_volumes<'a>(spec: &Field<'a>) -> BTreeMap<&'a str, &'a Value> {
    let mut volumes = BTreeMap::new();
    for volume in spec.list("volumes") {
        if let Some(name) = volume.required("name") {
            if !is_dns_label(name) {
                volume.refuse_at("name", format!("{name:?} is no DNS-1123 label"));
            }
            if volumes.insert(name, volume.value).is_some() {
                volume.refuse_at("name", format!("duplicate {name:?}"));
            }
        }
        // Every other field of a volume is a kind of source, also one that is newer than this file.
        let fields = volume.value.as_object().into_iter().flatten();
        match fields.filter(|(key, source)| *key != "name" && !source.is_null()).count() {
            0 => volume.refuse("must specify a volume type"),
            1 => {}
            _ => volume.refuse("may not specify more than one volume type"),
        }
        if let Some(host_path) = volume.get("hostPath") {
            if host_path.required("path").is_some_and(climbs) {
                host_path.refuse_at("path", "must not contain '..'");
            }
            host_path.one_of(
                "type",
                &[
                    "",
                    "DirectoryOrCreate",
                    "Directory",
                    "FileOrCreate",
                    "File",
                    "Socket",
                    "CharDevice",
                    "BlockDevice",
                ],
            );
        }
        if let Some(claim) = volume.get("persistentVolumeClaim") {
            claim.required("claimName");
            claim.flag("readOnly");
        }
    }
    volumes
}

/// `validatePodHostNetworkDeps`; a host port that is not set is the container's.
fn validate_pod_host_network_deps(spec: &Field<'_>) {
    for port in spec.list("containers").iter().flat_map(|container| container.list("ports")) {
        let host_port = port.number("hostPort").unwrap_or(0);
        if host_port != 0 && Some(host_port) != port.number("containerPort") {
            port.refuse_at("hostPort", "must match containerPort when hostNetwork is true");
        }
    }
}

// --- containers --------------------------------------------------------------------------------------------

/// `validateContainers`.
fn validate_containers<'a>(spec: &Field<'a>, pod: &Surroundings<'a>, names: &mut BTreeSet<&'a str>) {
    let containers = spec.list("containers");
    if containers.is_empty() {
        spec.refuse_at("containers", "required");
    }
    for container in &containers {
        validate_container_common(container, pod, names);
        validate_lifecycle_and_probes(container, pod);
        if container.get("restartPolicy").is_some() {
            container.refuse_at("restartPolicy", "may not be set for non-init containers");
        }
    }
    check_host_port_conflicts(containers.iter(), pod);
}

/// `validateInitContainers`, `validateInitContainerRestartPolicy`.
fn validate_init_containers<'a>(spec: &Field<'a>, pod: &Surroundings<'a>, names: &mut BTreeSet<&'a str>) {
    for container in &spec.list("initContainers") {
        validate_container_common(container, pod, names);
        // Init containers run one by one.
        check_host_port_conflicts([container].into_iter(), pod);
        container.one_of("restartPolicy", &["Always"]);
        if container.text("restartPolicy") == Some("Always") {
            validate_lifecycle_and_probes(container, pod);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.get(field).is_some() {
                    container
                        .refuse_at(field, "may not be set for init containers without restartPolicy=Always");
                }
            }
        }
        if !container.list("resizePolicy").is_empty() {
            container.refuse_at("resizePolicy", "must not be set for init containers");
        }
    }
}

/// `validateContainerCommon`, `validateContainersOnlyForPod`; uniqueness over all kinds of containers.
fn validate_container_common<'a>(
    container: &Field<'a>,
    pod: &Surroundings<'a>,
    names: &mut BTreeSet<&'a str>,
) {
    if let Some(name) = container.required("name") {
        if !is_dns_label(name) {
            container.refuse_at("name", format!("{name:?} is no DNS-1123 label"));
        }
        if !names.insert(name) {
            container.refuse_at("name", format!("duplicate {name:?}"));
        }
    }
    if container.required("image").is_some_and(|image| image.trim() != image) {
        container.refuse_at("image", "must not have leading or trailing whitespace");
    }
    container.one_of("terminationMessagePolicy", &["File", "FallbackToLogsOnError"]);
    validate_container_ports(container);
    validate_env(container);
    validate_volume_mounts(container, pod);
    validate_volume_devices(container, pod);
    container.one_of("imagePullPolicy", &["Always", "IfNotPresent", "Never"]);
    if let Some(resources) = container.get("resources") {
        validate_resource_requirements(&resources, pod);
    }
    validate_resize_policy(container, pod);
    if let Some(security) = container.get("securityContext") {
        validate_security_context(&security);
    }
}

/// `validateContainerPorts`.
fn validate_container_ports(container: &Field<'_>) {
    let mut names = BTreeSet::new();
    for port in container.list("ports") {
        if let Some(name) = port.text("name").filter(|name| !name.is_empty()) {
            if !is_port_name(name) {
                port.refuse_at("name", format!("{name:?} is no port name"));
            } else if !names.insert(name) {
                port.refuse_at("name", format!("duplicate {name:?}"));
            }
        }
        match port.number("containerPort") {
            None | Some(0) => port.refuse_at("containerPort", "required"),
            Some(number) => check_port(&port, "containerPort", number),
        }
        if let Some(number) = port.number("hostPort").filter(|number| *number != 0) {
            check_port(&port, "hostPort", number);
        }
        port.one_of("protocol", &["TCP", "UDP", "SCTP"]);
    }
}

/// `validation.IsValidPortNum`.
fn check_port(holder: &Field<'_>, key: &str, number: i64) {
    if !(1..=65535).contains(&number) {
        holder.refuse_at(key, "must be from 1 to 65535");
    }
}

/// `checkHostPortConflicts`, `AccumulateUniqueHostPorts`.
fn check_host_port_conflicts<'f, 'a: 'f>(
    containers: impl Iterator<Item = &'f Field<'a>>,
    pod: &Surroundings<'a>,
) {
    let mut taken = BTreeSet::new();
    for port in containers.flat_map(|container| container.list("ports")) {
        let own = port.number("hostPort").filter(|number| *number != 0);
        let Some(number) = own.or_else(|| port.number("containerPort").filter(|_| pod.host_network)) else {
            continue;
        };
        let protocol = port.text("protocol").unwrap_or("TCP");
        let address = port.text("hostIP").unwrap_or_default();
        if !taken.insert((protocol, address, number)) {
            port.refuse_at("hostPort", format!("duplicate {protocol}/{address}/{number}"));
        }
    }
}

/// `ValidateEnv`, `validateEnvVarValueFrom`, `validation.IsRelaxedEnvVarName`.
fn validate_env(container: &Field<'_>) {
    for variable in container.list("env") {
        if let Some(name) = variable.required("name") {
            if name.chars().any(|char| !(' '..='~').contains(&char) || char == '=') {
                variable.refuse_at("name", format!("{name:?} is no name of an environment variable"));
            }
        }
        let value = variable.text("value").unwrap_or_default();
        if let Some(from) = variable.get("valueFrom") {
            if !value.is_empty() {
                from.refuse("may not be specified when value is not empty");
            }
            if from.value.as_object().is_none_or(|sources| sources.len() != 1) {
                from.refuse("must have exactly one source");
            }
        }
    }
}

/// `ValidateVolumeMounts`, `validateLocalDescendingPath`.
fn validate_volume_mounts(container: &Field<'_>, pod: &Surroundings<'_>) {
    let devices = container.list("volumeDevices");
    let in_devices = |key: &str, value: &str| devices.iter().any(|device| device.text(key) == Some(value));
    let mut paths = BTreeSet::new();
    for mount in container.list("volumeMounts") {
        if let Some(name) = mount.required("name") {
            if !pod.volumes.contains_key(name) {
                mount.refuse_at("name", format!("no volume {name:?}"));
            }
            if in_devices("name", name) {
                mount.refuse_at("name", "must not already exist in volumeDevices");
            }
        }
        if let Some(path) = mount.required("mountPath") {
            if !paths.insert(path) {
                mount.refuse_at("mountPath", format!("{path:?} must be unique"));
            }
            if in_devices("devicePath", path) {
                mount.refuse_at("mountPath", "must not already exist as a path in volumeDevices");
            }
        }
        let sub_path = |key| mount.text(key).filter(|path| !path.is_empty());
        for key in ["subPath", "subPathExpr"] {
            if let Some(path) = sub_path(key) {
                if path.starts_with('/') {
                    mount.refuse_at(key, "must be a relative path");
                }
                if climbs(path) {
                    mount.refuse_at(key, "must not contain '..'");
                }
            }
        }
        if sub_path("subPath").is_some() && sub_path("subPathExpr").is_some() {
            mount.refuse_at("subPathExpr", "subPathExpr and subPath are mutually exclusive");
        }
        validate_mount_propagation(&mount, container);
        validate_mount_recursive_read_only(&mount);
    }
}

/// `validateMountPropagation`.
fn validate_mount_propagation(mount: &Field<'_>, container: &Field<'_>) {
    mount.one_of("mountPropagation", &["None", "HostToContainer", "Bidirectional"]);
    let privileged = container.get("securityContext").and_then(|security| security.flag("privileged"));
    if mount.text("mountPropagation") == Some("Bidirectional") && privileged != Some(true) {
        mount.refuse_at("mountPropagation", "Bidirectional is available only to privileged containers");
    }
}

/// `validateMountRecursiveReadOnly`.
fn validate_mount_recursive_read_only(mount: &Field<'_>) {
    mount.one_of("recursiveReadOnly", &["Disabled", "Enabled", "IfPossible"]);
    if !matches!(mount.text("recursiveReadOnly"), Some("Enabled" | "IfPossible")) {
        return;
    }
    if mount.flag("readOnly") != Some(true) {
        mount.refuse_at("recursiveReadOnly", "may only be specified when readOnly is true");
    }
    if !matches!(mount.text("mountPropagation"), None | Some("None")) {
        mount.refuse_at("recursiveReadOnly", "may only be specified when mountPropagation is None");
    }
}

/// `ValidateVolumeDevices`. What a device and a mount share is refused at the mount.
fn validate_volume_devices(container: &Field<'_>, pod: &Surroundings<'_>) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.list("volumeDevices") {
        if let Some(name) = device.required("name") {
            if !names.insert(name) {
                device.refuse_at("name", format!("{name:?} must be unique"));
            }
            match pod.volumes.get(name) {
                None => device.refuse_at("name", format!("no volume {name:?}")),
                Some(volume) => {
                    if volume.get("persistentVolumeClaim").or(volume.get("ephemeral")).is_none() {
                        device.refuse_at("name", "only a PersistentVolumeClaim can be a block device");
                    }
                }
            }
        }
        if let Some(path) = device.required("devicePath") {
            if !paths.insert(path) {
                device.refuse_at("devicePath", format!("{path:?} must be unique"));
            }
            if climbs(path) {
                device.refuse_at("devicePath", "must not contain '..'");
            }
        }
    }
}

/// `validateResizePolicy`.
fn validate_resize_policy(container: &Field<'_>, pod: &Surroundings<'_>) {
    for policy in container.list("resizePolicy") {
        policy.one_of("resourceName", &["cpu", "memory"]);
        policy.one_of("restartPolicy", &["NotRequired", "RestartContainer"]);
        if pod.never_restarts && policy.text("restartPolicy") == Some("RestartContainer") {
            policy.refuse_at("restartPolicy", "must be NotRequired when the Pod's restartPolicy is Never");
        }
    }
}

// --- hooks and probes --------------------------------------------------------------------------------------

/// What regular containers and native sidecars may have.
fn validate_lifecycle_and_probes(container: &Field<'_>, pod: &Surroundings<'_>) {
    if let Some(lifecycle) = container.get("lifecycle") {
        validate_lifecycle(&lifecycle, pod);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(name) {
            validate_probe(&probe, name);
        }
    }
}

/// `validateLifecycle`, `validateStopSignal`, `validateSleepAction`.
fn validate_lifecycle(lifecycle: &Field<'_>, pod: &Surroundings<'_>) {
    for hook in ["postStart", "preStop"].iter().filter_map(|hook| lifecycle.get(hook)) {
        validate_handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"]);
        let seconds = hook.get("sleep").and_then(|sleep| sleep.number("seconds"));
        if seconds.is_some_and(|seconds| seconds < 0 || seconds > pod.grace_period) {
            hook.refuse_at("sleep", "must be at most terminationGracePeriodSeconds");
        }
    }
    if lifecycle.get("stopSignal").is_some() && !pod.has_os {
        lifecycle.refuse_at("stopSignal", "may not be set without spec.os.name");
    }
}

/// `validateProbe`, `validateLivenessProbe`, `validateReadinessProbe`, `validateStartupProbe`.
fn validate_probe(probe: &Field<'_>, name: &str) {
    validate_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
    for key in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if probe.number(key).is_some_and(|number| number < 0) {
            probe.refuse_at(key, "must not be negative");
        }
    }
    // 0 is the default, which is 1.
    if name != "readinessProbe" && probe.number("successThreshold").unwrap_or(1) > 1 {
        probe.refuse_at("successThreshold", "must be 1");
    }
    match probe.number("terminationGracePeriodSeconds") {
        Some(_) if name == "readinessProbe" => {
            probe.refuse_at("terminationGracePeriodSeconds", "must not be set for readinessProbes");
        }
        Some(seconds) if seconds <= 0 => {
            probe.refuse_at("terminationGracePeriodSeconds", "must be greater than 0");
        }
        _ => {}
    }
}

/// `validateHandler`, `validateExecAction`, `validateHTTPGetAction`, `validateTCPSocketAction`,
/// `validateGRPCAction`.
fn validate_handler(holder: &Field<'_>, kinds: &[&str]) {
    let handlers: Vec<_> = kinds.iter().filter_map(|kind| Some((*kind, holder.get(kind)?))).collect();
    match handlers.len() {
        0 => holder.refuse("must specify a handler type"),
        1 => {}
        _ => holder.refuse("may not specify more than one handler type"),
    }
    for (kind, handler) in handlers {
        match kind {
            "exec" if handler.list("command").is_empty() => handler.refuse_at("command", "required"),
            "httpGet" | "tcpSocket" | "grpc" => validate_port_num_or_name(&handler),
            _ => {}
        }
        if kind == "httpGet" {
            handler.one_of("scheme", &["HTTP", "HTTPS"]);
        }
    }
}

/// `ValidatePortNumOrName`.
fn validate_port_num_or_name(handler: &Field<'_>) {
    match handler.get("port").map(|port| port.value) {
        Some(Value::String(name)) if is_port_name(name) => {}
        Some(port) if port.is_i64() => check_port(handler, "port", port.as_i64().unwrap_or_default()),
        _ => handler.refuse_at("port", "must be a number or the name of a port"),
    }
}

// --- resources ---------------------------------------------------------------------------------------------

/// `ValidateContainerResourceRequirements`, `validateContainerResourceName`, `ValidateResourceQuantityValue`.
fn validate_resource_requirements(resources: &Field<'_>, pod: &Surroundings<'_>) {
    for claim in resources.list("claims") {
        if claim.required("name").is_some_and(|name| !pod.resource_claims.contains(name)) {
            claim.refuse_at("name", "must be one of the names in spec.resourceClaims");
        }
    }
    let limits = quantities(resources, "limits");
    for (name, request) in quantities(resources, "requests") {
        let refuse = |message: &str| resources.refuse_at(&format!("requests[{name}]"), message);
        let may_be_overcommitted = is_native(name) && !is_huge_pages(name);
        match limits.get(name) {
            Some(limit) if request != *limit && !may_be_overcommitted => refuse("must be equal to the limit"),
            Some(limit) if request > *limit => refuse("must be less than or equal to the limit"),
            None if !may_be_overcommitted => {
                refuse("a limit must be set for a resource that is not overcommitted")
            }
            _ => {}
        }
    }
}

fn quantities<'a>(resources: &Field<'a>, kind: &str) -> BTreeMap<&'a str, i128> {
    let mut all = BTreeMap::new();
    for (name, field) in resources.map(kind) {
        let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name) || is_huge_pages(name);
        if !standard && (!name.contains('/') || !is_qualified_name(name)) {
            field.refuse("must be a standard resource or a qualified name");
        } else if !is_native(name) && !is_extended(name) {
            field.refuse("is no name of an extended resource");
        }
        match quantity(field.value) {
            None => field.refuse("must be a quantity"),
            Some(amount) => {
                if amount < 0 {
                    field.refuse("must not be negative");
                }
                if is_extended(name) && amount % 1_000_000_000 != 0 {
                    field.refuse("must be an integer");
                }
                all.insert(name, amount);
            }
        }
    }
    all
}

/// `validatePodResources`, `validatePodResourceConsistency`, `resourcehelper.AggregateContainerRequests`.
fn validate_pod_resources(spec: &Field<'_>) {
    let Some(pod) = spec.get("resources") else { return };
    let (requests, limits) = (quantities(&pod, "requests"), quantities(&pod, "limits"));
    let containers = spec.list("containers");
    for name in requests.keys().chain(limits.keys()).collect::<BTreeSet<_>>() {
        // A request that is not set is the limit.
        let amount = |container: &Field<'_>, kinds: &[&str]| {
            let resources = container.value.get("resources");
            let values = kinds.iter().filter_map(|kind| resources?.get(*kind)?.get(*name));
            values.filter_map(quantity).next().unwrap_or(0)
        };
        let request = |container: &Field<'_>| amount(container, &["requests", "limits"]);
        let (mut native, mut init) = (0, 0);
        for container in &spec.list("initContainers") {
            if container.text("restartPolicy") == Some("Always") {
                native += request(container);
                init = init.max(native);
            } else {
                init = init.max(native + request(container));
            }
        }
        let total = init.max(native + containers.iter().map(request).sum::<i128>());
        let at_least = requests.get(name).or(limits.get(name)).copied().unwrap_or(0);
        if total > at_least {
            pod.refuse_at(
                &format!("requests[{name}]"),
                "must be greater than or equal to aggregate container requests",
            );
        }
        for container in &containers {
            if limits.get(name).is_some_and(|limit| amount(container, &["limits"]) > *limit) {
                container.refuse_at(
                    &format!("resources.limits[{name}]"),
                    "must be less than or equal to pod limits",
                );
            }
        }
        if limits.get(name).is_some_and(|limit| requests.get(name).is_some_and(|request| request > limit)) {
            pod.refuse_at(&format!("requests[{name}]"), "must be less than or equal to the limit");
        }
    }
}

// --- security ----------------------------------------------------------------------------------------------

/// `ValidateSecurityContext`.
fn validate_security_context(security: &Field<'_>) {
    validate_ids(security, &["runAsUser", "runAsGroup"]);
    let privileged = security.flag("privileged") == Some(true);
    security.flag("runAsNonRoot");
    if security.flag("allowPrivilegeEscalation") != Some(false) {
        return;
    }
    if privileged {
        security.refuse("cannot set allowPrivilegeEscalation to false and privileged to true");
    }
    let added = security.get("capabilities").map(|capabilities| capabilities.list("add"));
    if added.into_iter().flatten().any(|capability| capability.value == "CAP_SYS_ADMIN") {
        security.refuse("cannot set allowPrivilegeEscalation to false and add CAP_SYS_ADMIN");
    }
}

/// `validation.IsValidUserID`, `validation.IsValidGroupID`.
fn validate_ids(security: &Field<'_>, keys: &[&str]) {
    for key in keys {
        if security.number(key).is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            security.refuse_at(key, "must be from 0 to 2147483647");
        }
    }
}
