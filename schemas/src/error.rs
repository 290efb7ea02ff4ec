//! The one error that leaves a crate: a code that clients may branch on, a message for people, and what it is about.
//!
//! [`Kind`] exists where a caller would act differently; it is also the HTTP status. [`Code`] is the stable name in
//! answers, and each code belongs to one kind. Messages are lower case, without a full stop, with the values needed to act.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is malformed: mend it.
    Invalid,
    /// Nobody knows who asks.
    Unauthorized,
    /// The address or the operation is right but this caller may not.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The method does not fit the address.
    MethodNotAllowed,
    /// No answer format that the caller accepts.
    NotAcceptable,
    /// It clashes with what is there: look, then decide.
    Conflict,
    /// It was there and is no longer.
    Gone,
    /// Send less at once.
    TooLarge,
    /// Send another format.
    UnsupportedMedia,
    /// Well formed, but wrong for this table.
    Unprocessable,
    /// Wait, then send the same again.
    Busy,
    /// Our mistake, or rot on disk.
    Internal,
    /// Planned, not there yet.
    NotBuilt,
    /// Cannot be served now: retry with the same content.
    Unavailable,
    /// Took longer than its limit.
    Timeout,
}

impl Kind {
    /// The HTTP status that says the same.
    pub fn status(self) -> u16 {
        match self {
            Kind::Invalid => 400,
            Kind::Unauthorized => 401,
            Kind::Forbidden => 403,
            Kind::NotFound => 404,
            Kind::MethodNotAllowed => 405,
            Kind::NotAcceptable => 406,
            Kind::Conflict => 409,
            Kind::Gone => 410,
            Kind::TooLarge => 413,
            Kind::UnsupportedMedia => 415,
            Kind::Unprocessable => 422,
            Kind::Busy => 429,
            Kind::Internal => 500,
            Kind::NotBuilt => 501,
            Kind::Unavailable => 503,
            Kind::Timeout => 504,
        }
    }
}

macro_rules! codes {
    ($($variant:ident $text:literal $kind:ident $meaning:literal;)*) => {
        /// The stable name of an error in answers. README lists them all; a test compares.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            pub fn kind(self) -> Kind {
                match self { $(Code::$variant => Kind::$kind,)* }
            }

            /// One line for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" Invalid "a parameter, header or path is malformed";
    InvalidBody "invalid_body" Invalid "the body does not parse in the format it says it has";
    InvalidSql "invalid_sql" Invalid "the statement does not parse, does not plan or cannot be computed";
    MultipleStatements "multiple_statements" Invalid "one request takes one statement";
    SqlTooDeep "sql_too_deep" Invalid "the statement nests deeper than the limit";
    InvalidName "invalid_name" Invalid "a name has characters that names may not have";
    InvalidToken "invalid_token" Invalid "the resume token is not one of ours";
    InvalidOffset "invalid_offset" Invalid "an offset or time that no row has yet";
    InvalidType "invalid_type" Invalid "a column type that tables cannot have";
    InvalidProperty "invalid_property" Invalid "a table property that is unknown, or a value it cannot have";
    Unauthorized "unauthorized" Unauthorized "the request has no token, or not the server's";
    Forbidden "forbidden" Forbidden "the request reaches where it may not";
    NotFound "not_found" NotFound "no such address";
    TableNotFound "table_not_found" NotFound "no such table";
    DatabaseNotFound "database_not_found" NotFound "no such database";
    MethodNotAllowed "method_not_allowed" MethodNotAllowed "the method does not fit the address";
    NotAcceptable "not_acceptable" NotAcceptable "none of the accepted formats is offered";
    TableExists "table_exists" Conflict "a table of that name is there";
    DatabaseExists "database_exists" Conflict "a database of that name is there";
    DatabaseNotEmpty "database_not_empty" Conflict "the database still has tables";
    OutOfOrderSequence "out_of_order_sequence" Conflict "the writer skipped a sequence number";
    SequenceTooOld "sequence_too_old" Conflict "the answer to that sequence number is no longer kept";
    WriteConflict "write_conflict" Conflict "rows or columns were changed by others while the statement ran";
    LakeConflict "lake_conflict" Conflict "somebody else changed the lake table in a way that stops tiering";
    OffsetOutOfRetention "offset_out_of_retention" Gone "rows from that offset are no longer kept";
    SnapshotExpired "snapshot_expired" Gone "the snapshot being read has been expired";
    TableDropped "table_dropped" Gone "the table was dropped or made anew";
    RequestTooLarge "request_too_large" TooLarge "the request is larger than one request may be";
    UnsupportedMediaType "unsupported_media_type" UnsupportedMedia "the content type or encoding is not one we read";
    InvalidRow "invalid_row" Unprocessable "a row does not fit the table";
    CheckViolation "check_violation" Unprocessable "a row breaks a CHECK constraint of the table";
    UnknownColumn "unknown_column" Unprocessable "a column that the table does not have";
    SequenceReused "sequence_reused" Unprocessable "the same sequence number came with other rows";
    WrongTableKind "wrong_table_kind" Unprocessable "the operation does not fit this kind of table";
    TooBusy "too_busy" Busy "a byte limit is reached: wait and send again";
    IndexFull "index_full" Busy "primary keys take all the memory they may: make room, or allow more";
    ResourcesExhausted "resources_exhausted" Busy "the query needs more memory than it may have";
    Internal "internal" Internal "a fault of ours";
    Corrupt "corrupt" Internal "stored bytes do not match their checksum";
    NotBuilt "not_built" NotBuilt "planned, and not there yet";
    Starting "starting" Unavailable "the server is recovering";
    ShuttingDown "shutting_down" Unavailable "the server is stopping";
    DiskFull "disk_full" Unavailable "the disk has no room for the write";
    StoreUnavailable "store_unavailable" Unavailable "the object store does not answer";
    QueryTimeout "query_timeout" Timeout "the query took longer than its limit";
}

/// An error with all that its reader needs to act.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    message: String,
    row: Option<u64>,
    column: Option<String>,
    value: Option<String>,
    hint: Option<String>,
    expected: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A value in an error is cut to this many bytes.
const VALUE_BYTES_MAX: usize = 256;

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            code,
            message: message.into(),
            row: None,
            column: None,
            value: None,
            hint: None,
            expected: None,
            source: None,
        }))
    }

    /// A fault of ours, or of a library that we use.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Code::Internal, message)
    }

    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Code::Corrupt, message)
    }

    /// `what` is planned, and not there yet.
    pub fn not_built(what: impl fmt::Display) -> Error {
        Error::new(Code::NotBuilt, format!("{what} is not built yet"))
    }

    /// The row of the request that is meant, from 0.
    pub fn with_row(mut self, row: u64) -> Error {
        self.0.row = Some(row);
        self
    }

    pub fn with_column(mut self, column: impl Into<String>) -> Error {
        self.0.column = Some(column.into());
        self
    }

    /// The offending value, cut to 256 bytes.
    pub fn with_value(mut self, value: impl Into<String>) -> Error {
        let mut value = value.into();
        if value.len() > VALUE_BYTES_MAX {
            value.truncate(value.floor_char_boundary(VALUE_BYTES_MAX));
        }
        self.0.value = Some(value);
        self
    }

    /// What to do about it.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// The sequence number that would have been taken.
    pub fn with_expected(mut self, sequence: u64) -> Error {
        self.0.expected = Some(sequence);
        self
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Says in front of the message what was being done.
    pub fn while_doing(mut self, doing: impl fmt::Display) -> Error {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }

    /// The same once more, without its source.
    pub fn again(&self) -> Error {
        let Inner { code, message, row, column, value, hint, expected, source: _ } = &*self.0;
        Error(Box::new(Inner {
            code: *code,
            message: message.clone(),
            row: *row,
            column: column.clone(),
            value: value.clone(),
            hint: hint.clone(),
            expected: *expected,
            source: None,
        }))
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    pub fn kind(&self) -> Kind {
        self.0.code.kind()
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn row(&self) -> Option<u64> {
        self.0.row
    }

    pub fn column(&self) -> Option<&str> {
        self.0.column.as_deref()
    }

    pub fn value(&self) -> Option<&str> {
        self.0.value.as_deref()
    }

    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn expected(&self) -> Option<u64> {
        self.0.expected
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)?;
        if let Some(row) = self.0.row {
            write!(formatter, " (row {row})")?;
        }
        if let Some(source) = &self.0.source {
            write!(formatter, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {self}", self.0.code.as_str())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<arrow::error::ArrowError> for Error {
    /// For Arrow's refusals of data that we have checked: where a client's data may be at fault, say so there.
    fn from(error: arrow::error::ArrowError) -> Error {
        Error::internal("arrow").with_source(error)
    }
}
