//! `GET /openapi.json`: the contract's table as OpenAPI 3.1.
//!
//! `contract` says what there is, `shapes.json` what JSON looks like, [`Code::ALL`] how requests are refused. An example has
//! one name in all places where its parts stand: parameters, body, answer.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::response::Response;
use serde_json::{Map, Value, json};
use thermocline_schemas::{Code, Error, Result};

use super::contract::{Content, Operation, Parameter};
use super::operations::json;
use super::parameters::Parameters;
use super::problem::PROBLEM_JSON;
use super::{Problem, operations_of_routes};

const SHAPES: &str = include_str!("shapes.json");

const DESCRIPTION: &str = "A streaming table store: fresh rows hot on local disk, older rows in an Iceberg lake, one table \
    over both.\n\nEvery refusal is `application/problem+json` with a stable `code`. An address that is none answers 404 \
    `not_found`, a method that does not fit 405 `method_not_allowed` with `Allow`; GET may be HEAD. A parameter that an \
    operation does not know is refused. Every answer has `x-request-id`: the request's own, or a new one. 429 and 503 have \
    `Retry-After`: wait, and send the same again.";

/// `GET /openapi.json`
pub async fn show(parameters: Parameters) -> Result<Response, Problem> {
    static TEXT: OnceLock<String> = OnceLock::new();
    parameters.finish()?;
    let text = match TEXT.get() {
        Some(text) => text,
        None => {
            let document = document()?;
            TEXT.get_or_init(|| document.to_string())
        }
    };
    Ok(json(text.as_str()))
}

/// What the server answers to `GET /openapi.json`.
pub fn document() -> Result<Value> {
    of(operations_of_routes())
}

fn of(operations: &[&Operation]) -> Result<Value> {
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str()] = described(operation)?;
    }
    let mut shapes = parsed(SHAPES)?;
    let codes = Code::ALL.iter().map(|code| json!({ "const": code.as_str(), "description": code.meaning() }));
    shapes["Code"] = json!({ "type": "string", "oneOf": codes.collect::<Vec<_>>() });
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Thermocline",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "Apache 2.0", "identifier": "Apache-2.0" },
        },
        // A server without a token wants none.
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": shapes,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "description": "the token of `--token`" } },
        },
    }))
}

fn described(operation: &Operation) -> Result<Value> {
    let parameters = operation.parameters.iter().copied().flatten();
    let parameters =
        parameters.map(|parameter| described_parameter(operation, parameter)).collect::<Result<Vec<_>>>()?;
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": responses(operation)?,
    });
    if !operation.description.is_empty() {
        described["description"] = operation.description.into();
    }
    if !operation.bodies.is_empty() {
        let examples = |media: &str| {
            let of_media = operation.examples.iter().filter_map(|example| Some((example.name, example.body?)));
            of_media.filter(|(_, body)| body.0 == media).map(|(name, body)| (name, body.1)).collect()
        };
        described["requestBody"] = json!({ "required": true, "content": contents(operation.bodies, examples)? });
    }
    Ok(described)
}

fn described_parameter(operation: &Operation, parameter: &Parameter) -> Result<Value> {
    let schema = parsed(parameter.schema)?;
    let mut examples = Map::new();
    for example in operation.examples {
        let given = example.given.iter().filter(|(name, _)| *name == parameter.name);
        for (_, text) in given {
            let value = match schema["type"].as_str() {
                Some("boolean" | "integer") => parsed(text)?,
                _ => (*text).into(),
            };
            examples.insert(example.name.into(), json!({ "value": value }));
        }
    }
    let mut described = json!({
        "in": parameter.place,
        "name": parameter.name,
        "required": parameter.place == "path",
        "description": parameter.meaning,
        "schema": schema,
    });
    if !examples.is_empty() {
        described["examples"] = examples.into();
    }
    Ok(described)
}

fn responses(operation: &Operation) -> Result<Value> {
    let answers = |status: u16| {
        move |media: &str| {
            let of_status = operation.examples.iter().filter(move |example| example.status == status);
            let of_media = of_status.filter(|example| example.answer.0 == media);
            of_media.map(|example| (example.name, example.answer.1)).collect::<Vec<_>>()
        }
    };
    let mut responses = Map::new();
    let good = json!({ "description": operation.answer, "content": contents(operation.answers, answers(200))? });
    responses.insert("200".into(), good);
    if let Some(meaning) = operation.no_content {
        responses.insert("204".into(), json!({ "description": meaning }));
    }
    let mut refusals = BTreeMap::<u16, Vec<Code>>::new();
    for code in operation.refusals.iter().copied().flatten() {
        refusals.entry(code.kind().status()).or_default().push(*code);
    }
    for (status, codes) in refusals {
        let lines: Vec<_> = codes.iter().map(|code| format!("`{}`: {}", code.as_str(), code.meaning())).collect();
        let names: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
        let mut content = contents(&[Content(PROBLEM_JSON, Some("Problem"))], answers(status))?;
        content[PROBLEM_JSON]["schema"] = json!({
            "allOf": [reference("Problem"), { "properties": { "code": { "enum": names }, "status": { "const": status } } }],
        });
        responses.insert(status.to_string(), json!({ "description": lines.join("; "), "content": content }));
    }
    Ok(responses.into())
}

/// Media types with their schemas and examples.
fn contents(contents: &[Content], examples: impl Fn(&str) -> Vec<(&'static str, &'static str)>) -> Result<Value> {
    let mut described = Map::new();
    for Content(media, shape) in contents {
        let mut content = Map::new();
        if let Some(shape) = shape {
            content.insert("schema".into(), reference(shape));
        }
        let mut shown = Map::new();
        for (name, text) in examples(media) {
            let is_json = *media == "application/json" || *media == PROBLEM_JSON;
            let value = if is_json { parsed(text)? } else { text.into() };
            shown.insert(name.into(), json!({ "value": value }));
        }
        if !shown.is_empty() {
            content.insert("examples".into(), shown.into());
        }
        described.insert((*media).into(), content.into());
    }
    Ok(described.into())
}

fn reference(shape: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{shape}") })
}

fn parsed(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| Error::internal("the contract's own JSON").with_source(error))
}
