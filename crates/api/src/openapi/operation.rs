//! One operation of the API as the tables write it.

use http::Method;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a key.
    Open,
    /// Every valid key.
    AnyKey,
    /// A key with this scope.
    Scope(&'static str),
    /// The operator's key.
    Operator,
}

/// A parameter of the query: name, JSON type, what it does.
pub(crate) type Parameter = (&'static str, &'static str, &'static str);

/// What a body is.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(super) media: &'static str,
    pub(super) schema: Value,
    /// The named schemas that it refers to.
    pub(super) parts: Vec<(String, Value)>,
}

/// One method of one route.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Method.
    pub method: Method,
    /// Path below `/api/v1`, as the router has it.
    pub path: &'static str,
    /// Unique name.
    pub id: &'static str,
    /// Who may call.
    pub access: Access,
    pub(super) summary: &'static str,
    pub(super) tag: &'static str,
    pub(super) query: &'static [Parameter],
    /// Whether it is a list that comes in parts.
    pub(super) is_paged: bool,
    pub(super) body: Option<Shape>,
    pub(super) answers: Vec<(u16, Shape)>,
    /// Statuses of errors beyond those that follow from the rest.
    pub(super) fails: &'static [u16],
}

macro_rules! methods {
    ($($name:ident = $method:ident),*) => { $(
        #[doc = concat!("An operation by ", stringify!($method), ".")]
        pub(super) fn $name(
            path: &'static str,
            id: &'static str,
            access: Access,
            summary: &'static str,
        ) -> Operation {
            Operation {
                method: Method::$method,
                path,
                id,
                access,
                summary,
                tag: "",
                query: &[],
                is_paged: false,
                body: None,
                answers: vec![],
                fails: &[],
            }
        }
    )* };
}

methods!(get = GET, post = POST, put = PUT, patch = PATCH, delete = DELETE);

impl Operation {
    /// Takes a JSON body.
    pub(super) fn takes<T: ToSchema>(self) -> Self {
        self.takes_shape(of::<T>())
    }

    pub(super) fn takes_shape(self, shape: Shape) -> Self {
        Self { body: Some(shape), ..self }
    }

    pub(super) fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    /// Answers so.
    pub(super) fn gives(mut self, status: u16, shape: Shape) -> Self {
        self.answers.push((status, shape));
        self
    }

    /// Answers 200 with an object, as `{"data": …}`.
    pub(super) fn shows<T: ToSchema>(self) -> Self {
        self.gives(200, data::<T>())
    }

    /// Answers 200 with a part of a list, as `{"data": […], "next_cursor": …}`.
    pub(super) fn lists<T: ToSchema>(self) -> Self {
        self.gives(200, list::<T>()).paged()
    }

    /// Takes the parameters of every list.
    pub(super) fn paged(self) -> Self {
        Self { is_paged: true, ..self }
    }

    /// Answers 201 with an object, as `{"data": …}`.
    pub(super) fn makes<T: ToSchema>(self) -> Self {
        self.gives(201, data::<T>())
    }

    pub(super) fn fails(self, fails: &'static [u16]) -> Self {
        Self { fails, ..self }
    }

    pub(super) fn tagged(self, tag: &'static str) -> Self {
        Self { tag, ..self }
    }

    /// Statuses that an error of it can have.
    pub(super) fn errors(&self) -> Vec<u16> {
        let mut errors = self.fails.to_vec();
        if self.access != Access::Open {
            errors.extend([401, 403]);
        }
        if !matches!(self.access, Access::Open | Access::Operator) {
            errors.push(429);
        }
        if self.path.contains('{') {
            errors.extend([400, 404]);
        }
        if self.is_paged || !self.query.is_empty() {
            errors.extend([400, 422]);
        }
        if self.body.is_some() {
            errors.extend([400, 413, 422]);
        }
        if self.method == Method::POST {
            // The same `Idempotency-Key` with another body.
            errors.push(409);
        }
        errors.sort_unstable();
        errors.dedup();
        errors
    }
}

/// The schema of a type, by its name.
pub(super) fn of<T: ToSchema>() -> Shape {
    let mut parts = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut parts);
    // A schema has no value that JSON lacks, so none is lost.
    let parts = parts
        .into_iter()
        .filter_map(|(name, schema)| Some((name, serde_json::to_value(schema).ok()?)))
        .collect();
    let schema = json!({ "$ref": format!("#/components/schemas/{}", T::name()) });
    Shape { media: "application/json", schema, parts }
}

/// The fields of both.
pub(super) fn both<A: ToSchema, B: ToSchema>() -> Shape {
    let (a, b) = (of::<A>(), of::<B>());
    let schema = json!({ "allOf": [a.schema, b.schema] });
    Shape { schema, parts: [a.parts, b.parts].concat(), ..a }
}

fn enveloped(shape: Shape) -> Shape {
    let schema = json!({
        "type": "object",
        "required": ["data"],
        "properties": { "data": shape.schema },
    });
    Shape { schema, ..shape }
}

/// `{"data": …}`.
pub(super) fn data<T: ToSchema>() -> Shape {
    enveloped(of::<T>())
}

/// A part of a list.
fn list<T: ToSchema>() -> Shape {
    let (one, page) = (of::<T>(), of::<miosa_wire::envelope::PageOf>());
    let schema = json!({
        "type": "object",
        "required": ["data", "next_cursor"],
        "properties": {
            "data": { "type": "array", "items": one.schema },
            "next_cursor": {
                "type": ["string", "null"],
                "description": "`cursor` of the next part; null on the last.",
            },
            "page": page.schema,
        },
    });
    Shape { schema, parts: [one.parts, page.parts].concat(), ..one }
}

fn plain(media: &'static str, schema: Value) -> Shape {
    Shape { media, schema, parts: vec![] }
}

/// `{"data": "…"}`.
pub(super) fn text_data() -> Shape {
    enveloped(plain("application/json", json!({ "type": "string" })))
}

/// A JSON object without a fixed form.
pub(super) fn object() -> Shape {
    plain("application/json", json!({ "type": "object" }))
}

/// `{"data": {…}}` without a fixed form.
pub(super) fn object_data() -> Shape {
    enveloped(object())
}

/// Plain text.
pub(super) fn text() -> Shape {
    plain("text/plain", json!({ "type": "string" }))
}

/// Bytes as they are.
pub(super) fn bytes() -> Shape {
    plain("application/octet-stream", json!({}))
}

/// Server-sent events.
pub(super) fn events(description: &'static str) -> Shape {
    plain("text/event-stream", json!({ "type": "string", "description": description }))
}

/// No body.
pub(super) fn nothing() -> Shape {
    plain("", Value::Null)
}
