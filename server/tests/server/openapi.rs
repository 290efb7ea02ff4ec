//! The OpenAPI document against the server: addresses, methods, parameters, examples, and, for every refusal that any test
//! of this binary meets, its code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde_json::{Value, json};
use thermocline_schemas::Code;

use crate::harness::{TestServer, good, problem};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| thermocline_server::openapi_document().unwrap())
}

struct Operation {
    method: &'static str,
    path: &'static str,
    told: &'static Value,
}

fn operations() -> Vec<Operation> {
    let paths = document()["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&'static String, &'static Value)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, told)| Operation { method, path, told })
    };
    paths.iter().flat_map(of_path).collect()
}

/// Whether a path is one of an address with names in braces.
fn is_of(path: &str, address: &str) -> bool {
    let (path, address): (Vec<_>, Vec<_>) = (path.split('/').collect(), address.split('/').collect());
    path.len() == address.len() && path.iter().zip(address).all(|(path, name)| *path == name || name.starts_with('{'))
}

/// Fails for a refusal that the document does not tell of.
pub fn check_refusal(path: &str, status: u16, code: &str) {
    let operations: Vec<_> = operations().into_iter().filter(|operation| is_of(path, operation.path)).collect();
    let is_told = |operation: &Operation| {
        let told = &operation.told["responses"][status.to_string()]["content"]["application/problem+json"]["schema"];
        told["allOf"][1]["properties"]["code"]["enum"].as_array().is_some_and(|codes| codes.contains(&json!(code)))
    };
    // These two are of addresses and methods that are none; who asks is looked at first.
    let is_general = match code {
        "not_found" | "unauthorized" | "forbidden" => operations.is_empty(),
        "method_not_allowed" => !operations.is_empty(),
        _ => false,
    };
    assert!(
        is_general || operations.iter().any(is_told),
        "the OpenAPI document does not say that {path} answers {status} {code}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_served_and_well_formed() {
    let server = TestServer::start().await;
    let response = good(server.get("/openapi.json").send().await.unwrap()).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let served: Value = response.json().await.unwrap();
    assert_eq!(served, *document());
    assert_eq!(served["openapi"], "3.1.0");
    let mut references = Vec::new();
    gather(&served, &mut |name, value| {
        if name == "$ref" {
            references.push(value.as_str().unwrap().to_owned());
        }
    });
    assert!(references.len() > 20);
    for reference in references {
        assert!(served.pointer(reference.trim_start_matches('#')).is_some(), "{reference} is nowhere");
    }
    let codes = served["components"]["schemas"]["Code"]["oneOf"].as_array().unwrap();
    let codes: Vec<_> = codes.iter().map(|code| code["const"].as_str().unwrap()).collect();
    assert_eq!(codes, Code::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>());
    // A code that no operation answers is told of in vain, but for those of addresses and methods that are none.
    let mut answered = BTreeSet::from(["not_found", "method_not_allowed"]);
    let mut ids = BTreeSet::new();
    for Operation { path, told, .. } in operations() {
        assert!(ids.insert(told["operationId"].as_str().unwrap()));
        let parameters = told["parameters"].as_array().unwrap();
        let of_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
        let of_path: Vec<_> = of_path.map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap())).collect();
        assert_eq!(of_path, path.split('/').filter(|part| part.starts_with('{')).collect::<Vec<_>>());
        for (status, response) in told["responses"].as_object().unwrap() {
            assert!(!response["description"].as_str().unwrap().is_empty());
            let schema = &response["content"]["application/problem+json"]["schema"]["allOf"][1];
            for code in schema["properties"]["code"]["enum"].as_array().into_iter().flatten() {
                let code = Code::ALL.iter().find(|known| *code == known.as_str()).expect("a code that is one");
                assert_eq!(code.kind().status().to_string(), *status);
                answered.insert(code.as_str());
            }
        }
    }
    let never: Vec<_> = Code::ALL.iter().filter(|code| !answered.contains(code.as_str())).collect();
    assert!(never.is_empty(), "{never:?}");
}

/// Calls `seen` with every member of every object.
fn gather<'v>(value: &'v Value, seen: &mut impl FnMut(&str, &'v Value)) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            seen(name, member);
            gather(member, seen);
        }),
        Value::Array(items) => items.iter().for_each(|item| gather(item, seen)),
        _ => {}
    }
}

/// Of each address exactly the methods that are told of are there, and each takes exactly the parameters that are.
#[tokio::test(flavor = "multi_thread")]
async fn methods_and_parameters_are_as_told() {
    let server = TestServer::with_table().await;
    server.sql("CREATE TABLE k (id BIGINT PRIMARY KEY)").await;
    let mut told = BTreeMap::<_, BTreeMap<_, _>>::new();
    for operation in operations() {
        told.entry(operation.path).or_default().insert(operation.method, operation);
    }
    for (path, methods) in told {
        let path = path.replace("{database}", "public").replace("{table}", "k");
        for method in METHODS {
            let request = server.request(&method.to_uppercase(), &format!("{path}?no_such_parameter=1"));
            let Some(operation) = methods.get(method) else {
                problem(request.send().await.unwrap(), 405, "method_not_allowed").await;
                continue;
            };
            // The operation with most formats says all that it takes only of those that need it.
            let media =
                operation.told["requestBody"]["content"].as_object().and_then(|content| content.keys().next_back());
            let request = media.into_iter().fold(request, |request, media| request.header("content-type", media));
            let refused = problem(request.body("").send().await.unwrap(), 400, "invalid_request").await;
            let hint = refused["hint"].as_str().unwrap();
            let takes = hint.strip_prefix("this address takes ").unwrap();
            let takes: BTreeSet<_> = takes.split(", ").filter(|name| *name != "none").collect();
            let parameters = operation.told["parameters"].as_array().unwrap().iter();
            let parameters = parameters.filter(|parameter| parameter["in"] == "query");
            let parameters: BTreeSet<_> = parameters.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            assert_eq!(takes, parameters, "{method} {path}");
        }
    }
}

/// Requests put together from the document, sent in its order to a new server, answer what it says.
#[tokio::test(flavor = "multi_thread")]
async fn examples_answer_what_they_say() {
    let server = TestServer::start().await;
    let mut run = 0;
    for operation in operations() {
        for (status, media, name, answer) in answers_of(&operation) {
            let request = request_of(&server, &operation, &name);
            // A refusal comes as what it is, whatever is accepted.
            let request = if status == "200" { request.header("accept", &media) } else { request };
            let response = request.send().await.unwrap();
            let context = format!("{} {} {name}", operation.method, operation.path);
            assert_eq!(response.status().as_u16().to_string(), status, "{context}");
            let got_media = response.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
            assert_eq!(got_media, media, "{context}");
            let text = response.text().await.unwrap();
            if media == "application/json" || media.ends_with("+json") {
                let got: Value = serde_json::from_str(&text).unwrap();
                let schema = &operation.told["responses"][&status]["content"][&media]["schema"];
                for value in [&got, &answer] {
                    let fits = fits(value, schema);
                    assert!(fits.is_ok(), "{context}: {}\n{value:#}\n{schema:#}", fits.unwrap_err());
                }
                assert_eq!(constant(got), constant(answer), "{context}");
            } else {
                assert_eq!(constant_text(&text), constant_text(answer.as_str().unwrap()), "{context}");
            }
            run += 1;
        }
    }
    assert!(run >= 20, "{run} examples");
    // Answers that are longer than an example says are held against their schemas alone.
    for (path, pattern) in [
        ("/v1/tables/public/events", "/v1/tables/{database}/{table}"),
        ("/v1/tables/public/stock", "/v1/tables/{database}/{table}"),
        ("/openapi.json", "/openapi.json"),
    ] {
        let got: Value = good(server.get(path).send().await.unwrap()).await.json().await.unwrap();
        let told = &document()["paths"][pattern]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        fits(&got, told).unwrap();
    }
}

/// Status, media type, name and value of each answer.
fn answers_of(operation: &Operation) -> Vec<(String, String, String, Value)> {
    let mut answers = Vec::new();
    for (status, response) in operation.told["responses"].as_object().unwrap() {
        for (media, content) in response["content"].as_object().into_iter().flatten() {
            for (name, example) in content["examples"].as_object().into_iter().flatten() {
                answers.push((status.clone(), media.clone(), name.clone(), example["value"].clone()));
            }
        }
    }
    // Answers stand by status and media type, requests are sent in the order of their bodies and parameters.
    let order = |name: &str| {
        let bodies = operation.told["requestBody"]["content"].as_object().into_iter().flatten();
        let parameters = operation.told["parameters"].as_array().unwrap().iter();
        let bodies = bodies.filter_map(|(_, content)| content["examples"].as_object());
        let all = bodies.chain(parameters.filter_map(|parameter| parameter["examples"].as_object()));
        all.flat_map(|examples| examples.keys()).position(|known| known == name)
    };
    answers.sort_by_key(|(_, _, name, _)| order(name));
    answers
}

fn request_of(server: &TestServer, operation: &Operation, name: &str) -> reqwest::RequestBuilder {
    let (mut path, mut query, mut headers) = (operation.path.to_owned(), Vec::new(), Vec::new());
    for parameter in operation.told["parameters"].as_array().unwrap() {
        let value = &parameter["examples"][name]["value"];
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let parameter_name = parameter["name"].as_str().unwrap();
        match parameter["in"].as_str().unwrap() {
            _ if value == "null" => {}
            "path" => path = path.replace(&format!("{{{parameter_name}}}"), &value),
            "query" => query.push((parameter_name, value)),
            _ => headers.push((parameter_name, value)),
        }
    }
    let request = server.request(&operation.method.to_uppercase(), &path).query(&query);
    let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let bodies = operation.told["requestBody"]["content"].as_object().into_iter().flatten();
    let mut bodies = bodies.filter_map(|(media, content)| Some((media, content["examples"].get(name)?)));
    match bodies.next() {
        None => request,
        Some((media, example)) => {
            let value = &example["value"];
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            request.header("content-type", media).body(text)
        }
    }
}

/// What is another each time, made the same.
fn constant(mut value: Value) -> Value {
    const VARYING: [&str; 5] = ["elapsed_ms", "timestamp", "token", "snapshot_id", "seconds"];
    match &mut value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                *member = if VARYING.contains(&name.as_str()) { Value::Null } else { constant(member.take()) };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = constant(item.take())),
        _ => {}
    }
    value
}

fn constant_text(text: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once(": ") {
        Some(("id", _)) => "id".to_owned(),
        Some(("data", data)) => constant(serde_json::from_str(data).unwrap()).to_string(),
        _ => serde_json::from_str(line).map_or_else(|_| line.to_owned(), |value| constant(value).to_string()),
    };
    text.lines().map(line).collect()
}

/// The part of JSON Schema that the document uses.
fn fits(value: &Value, schema: &Value) -> Result<(), String> {
    let Some(rules) = schema.as_object() else { return Ok(()) };
    for (rule, wanted) in rules {
        let holds = match rule.as_str() {
            "$ref" => {
                let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                fits(value, document().pointer(pointer).unwrap())?;
                true
            }
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|one| is(value, one.as_str().unwrap())),
                one => is(value, one.as_str().unwrap()),
            },
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "required" => wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| fits(item, wanted))?;
                true
            }
            "allOf" => {
                wanted.as_array().unwrap().iter().try_for_each(|one| fits(value, one))?;
                true
            }
            "oneOf" => wanted.as_array().unwrap().iter().filter(|one| fits(value, one).is_ok()).count() == 1,
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    value.get(name).map_or(Ok(()), |member| fits(member, schema))?;
                }
                true
            }
            "additionalProperties" => {
                let known = |name: &String| rules.get("properties").is_some_and(|known| known.get(name).is_some());
                let others = value.as_object().into_iter().flatten().filter(|(name, _)| !known(name));
                match wanted {
                    Value::Bool(false) => others.count() == 0,
                    schema => {
                        others.map(|(_, member)| fits(member, schema)).collect::<Result<Vec<_>, _>>()?;
                        true
                    }
                }
            }
            "description" => true,
            other => return Err(format!("a rule that the test does not know: {other}")),
        };
        if !holds {
            return Err(format!("{rule} {wanted} does not hold of {value}"));
        }
    }
    Ok(())
}

fn is(value: &Value, one: &str) -> bool {
    match one {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("a type that is none: {other}"),
    }
}
