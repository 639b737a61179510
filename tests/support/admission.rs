//! ValidatingAdmissionPolicies as the API server applies them: which requests they match, their variables, and the
//! messages of the validations that fail. An expression that fails to evaluate refuses, as with `failurePolicy: Fail`.

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Env, Program, Value as Cel, extensions};
use serde_json::{Value, json};

pub struct Rule {
    env: Arc<Env>,
    manifest: Value,
    conditions: Vec<Program>,
    variables: Vec<(String, Program)>,
    validations: Vec<(String, Program)>,
}

/// What the API server is asked for. `resource` is that of a rule, such as `pods/exec`.
pub struct Request<'a> {
    pub operation: &'a str,
    pub resource: &'a str,
    pub namespace: &'a str,
    pub object: &'a Value,
    pub old: &'a Value,
}

impl Rule {
    pub fn new(manifest: &Value) -> Rule {
        let mut env = Env::stdlib();
        env.add_extension(extensions::strings).expect("Kubernetes has the extension, too");
        let env = Arc::new(env);
        let programs = |field: &str, key: &str| -> Vec<(String, Program)> {
            let entries = manifest["spec"][field].as_array().cloned().unwrap_or_default();
            let programs = entries.iter().map(|entry| {
                let expression = entry["expression"].as_str().expect("an expression");
                let program = env.compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
                (entry[key].as_str().unwrap_or_else(|| panic!("no {key}: {entry}")).to_owned(), program)
            });
            programs.collect()
        };
        Rule {
            conditions: programs("matchConditions", "name").into_iter().map(|(_, it)| it).collect(),
            variables: programs("variables", "name"),
            validations: programs("validations", "message"),
            manifest: manifest.clone(),
            env,
        }
    }

    fn matches(&self, request: &Request<'_>) -> bool {
        let rules = self.manifest["spec"]["matchConstraints"]["resourceRules"].as_array().expect("rules");
        rules.iter().any(|rule| {
            let has = |field: &str, value: &str| {
                rule[field].as_array().is_some_and(|list| list.iter().any(|it| it == value))
            };
            has("operations", request.operation) && has("resources", request.resource)
        })
    }

    /// The messages of the validations that fail.
    pub fn refusals(&self, request: &Request<'_>) -> Vec<String> {
        if !self.matches(request) {
            return Vec::new();
        }
        let context = |variables: &HashMap<String, Cel>| {
            let mut context = Context::with_env(self.env.clone());
            context.add_variable("object", request.object).unwrap();
            context.add_variable("oldObject", request.old).unwrap();
            let asked = json!({"operation": request.operation, "namespace": request.namespace});
            context.add_variable("request", asked).unwrap();
            context.add_variable_from_value("variables", variables.clone());
            context
        };
        let mut variables = HashMap::new();
        let before = context(&variables);
        let holds = |program: &Program, context: &Context<'_, '_>| match program.execute(context) {
            Ok(Cel::Bool(holds)) => Ok(holds),
            other => Err(format!("{other:?}")),
        };
        for condition in &self.conditions {
            match holds(condition, &before) {
                Ok(true) => {}
                Ok(false) => return Vec::new(),
                Err(error) => return vec![error],
            }
        }
        for (name, program) in &self.variables {
            match program.execute(&context(&variables)) {
                Ok(value) => variables.insert(name.clone(), value),
                Err(error) => return vec![format!("variables.{name}: {error}")],
            };
        }
        let context = context(&variables);
        let failed =
            self.validations.iter().filter_map(|(message, program)| match holds(program, &context) {
                Ok(true) => None,
                Ok(false) => Some(message.clone()),
                Err(error) => Some(format!("{message} ({error})")),
            });
        failed.collect()
    }
}
