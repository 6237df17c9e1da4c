"""The paper's two other tasks: action detection, and recognition of micro-expressions."""
