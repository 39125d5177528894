"""The tables of the conversion ledger.

The founders' five tables keep their names and columns; digests and milliseconds are added. Script n
(from 1) brings schema n-1 to n. A script that was released is never edited: a database that has it
would not get the change.
"""

TABLES = (
    "conversion_sessions",
    "layer_conversions",
    "metadata_entries",
    "performance_metrics",
    "so8t_parameters",
)
# One row for each conversion. `process` tells a later session whether this one's process died;
# `session_id` begins with the time, so that ids sort by age.
_SESSIONS = """
CREATE TABLE conversion_sessions (
  session_id TEXT PRIMARY KEY,
  model_name TEXT NOT NULL,
  model_type TEXT NOT NULL,
  source_path TEXT NOT NULL,
  output_path TEXT,
  total_layers INTEGER,
  conversion_status TEXT NOT NULL DEFAULT 'in_progress'
    CHECK (conversion_status IN ('in_progress', 'completed', 'failed', 'cancelled')),
  start_time TIMESTAMP NOT NULL,
  end_time TIMESTAMP,
  duration_seconds REAL,
  error_message TEXT,
  so8t_version TEXT,
  python_version TEXT,
  torch_version TEXT,
  source_sha256 TEXT,
  output_sha256 TEXT,
  semantic_digest TEXT,
  process TEXT NOT NULL
)
"""
# One row for each tensor. `layer_index` is null outside the layers. Shapes are JSON lists;
# `sha256` is of the data that were written.
_LAYERS = """
CREATE TABLE layer_conversions (
  conversion_id INTEGER PRIMARY KEY AUTOINCREMENT,
  session_id TEXT NOT NULL REFERENCES conversion_sessions (session_id),
  layer_index INTEGER,
  layer_name TEXT NOT NULL,
  tensor_name TEXT NOT NULL,
  original_shape TEXT NOT NULL,
  converted_shape TEXT,
  original_dtype TEXT NOT NULL,
  target_dtype TEXT,
  quant_type TEXT,
  conversion_time TIMESTAMP,
  processing_time_ms REAL,
  memory_usage_mb REAL,
  success BOOLEAN NOT NULL DEFAULT 1,
  error_message TEXT,
  sha256 TEXT
)
"""
# One row for each key of the written file, lists as JSON.
_METADATA = """
CREATE TABLE metadata_entries (
  metadata_id INTEGER PRIMARY KEY AUTOINCREMENT,
  session_id TEXT NOT NULL REFERENCES conversion_sessions (session_id),
  metadata_key TEXT NOT NULL,
  metadata_value TEXT,
  metadata_type TEXT,
  created_at TIMESTAMP NOT NULL
)
"""
# Numbers about a conversion, such as how long it took.
_METRICS = """
CREATE TABLE performance_metrics (
  metric_id INTEGER PRIMARY KEY AUTOINCREMENT,
  session_id TEXT NOT NULL REFERENCES conversion_sessions (session_id),
  metric_name TEXT NOT NULL,
  metric_value REAL NOT NULL,
  metric_unit TEXT,
  recorded_at TIMESTAMP NOT NULL
)
"""
# The founders' parameters as the written file has them; null where it has no such key.
_PARAMETERS = """
CREATE TABLE so8t_parameters (
  param_id INTEGER PRIMARY KEY AUTOINCREMENT,
  session_id TEXT NOT NULL REFERENCES conversion_sessions (session_id),
  rotation_dim INTEGER,
  pet_lambda REAL,
  safety_weight REAL,
  cmd_weight REAL,
  triality_enabled BOOLEAN,
  multimodal_enabled BOOLEAN,
  ocr_enabled BOOLEAN,
  safety_classes TEXT,
  created_at TIMESTAMP NOT NULL
)
"""
# A session's rows are read together; without these, each look would read the whole table.
_INDEXES = """
CREATE INDEX layer_conversions_session ON layer_conversions (session_id);
CREATE INDEX metadata_entries_session ON metadata_entries (session_id);
CREATE INDEX performance_metrics_session ON performance_metrics (session_id)
"""

MIGRATIONS = (
    # 1: all of it.
    ";".join((_SESSIONS, _LAYERS, _METADATA, _METRICS, _PARAMETERS, _INDEXES)),
)
