//! The part of an address after `?`, table names in paths, and headers that may be there once. What we do not know we refuse: a mistyped
//! `form=earliest` must not silently mean `from=latest`.

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use thermocline_engine::Table;
use thermocline_schemas::{Code, Error, Result, TableName};

use super::Problem;

/// Take what is known, then [`Parameters::finish`].
pub struct Parameters {
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Parameters, Problem> {
        Ok(Parameters::parse(parts.uri.query().unwrap_or_default())?)
    }
}

impl Parameters {
    fn parse(query: &str) -> Result<Parameters> {
        let mut given = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if given.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(Error::new(Code::InvalidRequest, format!("the parameter {name} is there twice")));
            }
        }
        Ok(Parameters { given, known: Vec::new() })
    }

    pub fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.given.remove(name)
    }

    pub fn boolean(&mut self, name: &'static str, default: bool) -> Result<bool> {
        match self.take(name).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(invalid(name, "must be true or false").with_value(other)),
        }
    }

    /// Comma-separated names.
    pub fn names(&mut self, name: &'static str) -> Option<Vec<String>> {
        self.take(name).map(|list| list.split(',').map(|one| one.trim().to_owned()).collect())
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<()> {
        let Some((name, _)) = self.given.into_iter().next() else { return Ok(()) };
        let hint = match self.known.is_empty() {
            true => "this address takes none".to_owned(),
            false => format!("this address takes {}", self.known.join(", ")),
        };
        Err(Error::new(Code::InvalidRequest, format!("unknown parameter {}", name.escape_debug())).with_hint(hint))
    }
}

/// A header that may be there once: of two, which one was meant?
pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => Err(Error::new(Code::InvalidRequest, format!("the header {name} is there twice"))),
    }
}

pub fn invalid(name: &str, why: &str) -> Error {
    Error::new(Code::InvalidRequest, format!("the parameter {name} {why}"))
}

/// `30s`, `500ms`, `2m`.
pub fn duration(name: &str, text: &str) -> Result<std::time::Duration> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let amount: Option<u64> = text[..digits].parse().ok();
    match amount.and_then(|amount| amount.checked_mul(unit_ms)) {
        Some(milliseconds) if milliseconds > 0 => Ok(std::time::Duration::from_millis(milliseconds)),
        _ => Err(invalid(name, "must be a duration above 0, a number and ms, s, m, h or d")
            .with_value(text)
            .with_hint("as 500ms, 30s or 5m")),
    }
}

/// `/{database}/{table}` of a path, checked.
pub struct Address(pub TableName);

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Address, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((database, table)) = path.map_err(|rejection| {
            Error::new(Code::InvalidRequest, "the path is not UTF-8").with_value(rejection.body_text())
        })?;
        Ok(Address(TableName::parse_read(&database, &table)?))
    }
}

/// The places of the wanted columns, in the order they were asked for.
pub fn columns_of(table: &Table, columns: Option<Vec<String>>) -> Result<Option<Vec<usize>>> {
    let Some(columns) = columns else { return Ok(None) };
    let own = table.descriptor().schema.columns();
    let mut places = Vec::new();
    for name in columns {
        let place = own.iter().position(|column| column.name.as_str() == name).ok_or_else(|| {
            Error::new(Code::UnknownColumn, format!("the table has no column {}", name.escape_debug()))
                .with_column(name.as_str())
                .with_hint("names are exact; the system columns come without asking")
        })?;
        if places.contains(&place) {
            return Err(Error::new(Code::InvalidRequest, format!("columns= names {name} twice")));
        }
        places.push(place);
    }
    Ok(Some(places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_doubled_parameters_are_refused_by_name() {
        let mut parameters = Parameters::parse("from=latest&form=x").unwrap();
        assert_eq!(parameters.take("from").as_deref(), Some("latest"));
        let error = parameters.finish().unwrap_err();
        assert!(error.message().contains("form") && error.hint().unwrap().contains("from"), "{error}");
        assert!(Parameters::parse("a=1&a=2").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("timeout", "500ms").unwrap().as_millis(), 500);
        assert_eq!(duration("timeout", "2m").unwrap().as_secs(), 120);
        for bad in ["", "5", "s", "0s", "-1s", "1.5s", "99999999999999999h"] {
            assert!(duration("timeout", bad).is_err(), "{bad}");
        }
    }
}
