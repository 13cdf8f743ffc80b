//! Functions that a model may ask the app to call, written in JSON as OpenAI's API does.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A function that the large model may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "wire::Tool", into = "wire::Tool")]
#[non_exhaustive]
pub struct Tool {
    /// What it is called by.
    pub name: String,
    /// What it is for, in words for the model.
    pub description: Option<String>,
    /// Its arguments, as a JSON Schema of an object.
    pub parameters: Value,
}

impl Tool {
    /// A function with these parameters, a JSON Schema of an object.
    #[must_use]
    pub fn new(name: impl Into<String>, parameters: Value) -> Self {
        Self { name: name.into(), description: None, parameters }
    }

    /// The same function with words about what it is for.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }
}

/// A model's wish that a function be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "wire::Call", into = "wire::Call")]
#[non_exhaustive]
pub struct ToolCall {
    /// What its result is to be sent back under.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// Its arguments as the model wrote them: JSON, if the model keeps to its word.
    pub arguments: String,
    /// What some servers want back with the call, unread: Gemini's `thoughtSignature`.
    pub signature: Option<String>,
}

impl ToolCall {
    /// A call without signature.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self { id: id.into(), name: name.into(), arguments: arguments.into(), signature: None }
    }
}

/// The JSON of both, with the levels that OpenAI's API has around them.
mod wire {
    use serde::{Deserialize, Serialize};
    use serde_json::Value;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Tool {
        r#type: Function,
        function: Declaration,
    }

    #[derive(Serialize, Deserialize)]
    struct Declaration {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        #[serde(default)]
        parameters: Value,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Call {
        id: String,
        r#type: Function,
        function: Invocation,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    }

    #[derive(Serialize, Deserialize)]
    struct Invocation {
        name: String,
        arguments: String,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Function {
        Function,
    }

    impl From<super::Tool> for Tool {
        fn from(super::Tool { name, description, parameters }: super::Tool) -> Self {
            Self { r#type: Function::Function, function: Declaration { name, description, parameters } }
        }
    }

    impl From<Tool> for super::Tool {
        fn from(Tool { function: Declaration { name, description, parameters }, .. }: Tool) -> Self {
            Self { name, description, parameters }
        }
    }

    impl From<super::ToolCall> for Call {
        fn from(super::ToolCall { id, name, arguments, signature }: super::ToolCall) -> Self {
            Self { id, r#type: Function::Function, function: Invocation { name, arguments }, signature }
        }
    }

    impl From<Call> for super::ToolCall {
        fn from(Call { id, function: Invocation { name, arguments }, signature, .. }: Call) -> Self {
            Self { id, name, arguments, signature }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_are_written_as_openai_documents_them() {
        let tool = Tool::new("get_weather", json!({"type": "object"})).description("now");
        let written = json!({"type": "function",
            "function": {"name": "get_weather", "description": "now", "parameters": {"type": "object"}}});
        assert_eq!(serde_json::to_value(&tool).unwrap(), written);
        assert_eq!(serde_json::from_value::<Tool>(written).unwrap(), tool);

        let call = ToolCall::new("call_abc123", "get_weather", r#"{"location": "Boston"}"#);
        let written = json!({"id": "call_abc123", "type": "function",
            "function": {"name": "get_weather", "arguments": "{\"location\": \"Boston\"}"}});
        assert_eq!(serde_json::to_value(&call).unwrap(), written);
        assert_eq!(serde_json::from_value::<ToolCall>(written).unwrap(), call);
    }
}
