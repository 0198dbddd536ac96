//! Prints every row of Parquet files, by arrow-rs, in the words of tests/conformance/rows.py.
//!
//! Each file is read three times: `whole`; in `splits`, every row group by itself; and `one`, the row in the middle,
//! found through the page index where there is one. Usage: read-rows FILE...

use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::file::metadata::PageIndexPolicy;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for path in std::env::args().skip(1) {
        for (name, read) in [
            ("whole", whole as fn(&str, &mut dyn Write) -> Result<()>),
            ("splits", splits),
            ("one", one),
        ] {
            writeln!(out, "# {name} {path}")?;
            if let Err(error) = read(&path, &mut out) {
                writeln!(out, "! {}", error.to_string().replace('\n', " "))?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

fn open(path: &str) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    Ok(ParquetRecordBatchReaderBuilder::try_new_with_options(
        File::open(path)?,
        options,
    )?)
}

fn whole(path: &str, out: &mut dyn Write) -> Result<()> {
    for batch in open(path)?.build()? {
        print(&batch?, out)?;
    }
    Ok(())
}

fn splits(path: &str, out: &mut dyn Write) -> Result<()> {
    for group in 0..open(path)?.metadata().num_row_groups() {
        for batch in open(path)?.with_row_groups(vec![group]).build()? {
            print(&batch?, out)?;
        }
    }
    Ok(())
}

fn one(path: &str, out: &mut dyn Write) -> Result<()> {
    let builder = open(path)?;
    let rows = builder.metadata().file_metadata().num_rows() as usize;
    let selection = RowSelection::from(vec![
        RowSelector::skip(rows / 2),
        RowSelector::select(1),
        RowSelector::skip(rows - rows / 2 - 1),
    ]);
    for batch in builder.with_row_selection(selection).build()? {
        print(&batch?, out)?;
    }
    Ok(())
}

fn print(batch: &RecordBatch, out: &mut dyn Write) -> Result<()> {
    for row in 0..batch.num_rows() {
        let mut line = Vec::new();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let text = if field.name() == "embedding" {
                vector(column, row)?
            } else {
                value(column, row)?
            };
            line.push(format!("{}={text}", field.name()));
        }
        writeln!(out, "{}", line.join("\t"))?;
    }
    Ok(())
}

/// A vector as the bytes of its numbers, little endian.
fn vector(column: &dyn Array, row: usize) -> Result<String> {
    let list = column
        .as_fixed_size_list_opt()
        .ok_or_else(|| format!("no vectors: {}", column.data_type()))?
        .value(row);
    if list.null_count() > 0 {
        return Err("a vector has nulls".into());
    }
    Ok(match list.data_type() {
        DataType::Float32 => format!(
            "f32:{}",
            hex(list.as_primitive::<Float32Type>().values().inner().as_slice())
        ),
        DataType::Float16 => format!(
            "f16:{}",
            hex(list.as_primitive::<Float16Type>().values().inner().as_slice())
        ),
        other => return Err(format!("no vectors: {other}").into()),
    })
}

fn value(column: &dyn Array, row: usize) -> Result<String> {
    if column.is_null(row) {
        return Ok("null".into());
    }
    Ok(match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float32 => format!(
            "f32:{}",
            hex(&column.as_primitive::<Float32Type>().value(row).to_le_bytes())
        ),
        DataType::Float64 => format!(
            "f64:{}",
            hex(&column.as_primitive::<Float64Type>().value(row).to_le_bytes())
        ),
        DataType::Date32 => format!("days:{}", column.as_primitive::<Date32Type>().value(row)),
        DataType::Decimal128(_, scale) => {
            format!(
                "decimal:{}e-{scale}",
                column.as_primitive::<Decimal128Type>().value(row)
            )
        }
        DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => {
            format!(
                "millis:{}",
                column.as_primitive::<TimestampMillisecondType>().value(row)
            )
        }
        DataType::Timestamp(TimeUnit::Microsecond, None) => {
            format!(
                "micros-local:{}",
                column.as_primitive::<TimestampMicrosecondType>().value(row)
            )
        }
        DataType::Utf8 => format!("text:{}", hex(column.as_string::<i32>().value(row).as_bytes())),
        DataType::Binary => format!("bytes:{}", hex(column.as_binary::<i32>().value(row))),
        DataType::FixedSizeBinary(_) => format!("bytes:{}", hex(column.as_fixed_size_binary().value(row))),
        DataType::List(_) => {
            let list = column.as_list::<i32>().value(row);
            let values = (0..list.len()).map(|at| value(&list, at)).collect::<Result<Vec<_>>>()?;
            format!("[{}]", values.join(","))
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(column.as_struct().columns());
            let values = columns
                .map(|(field, part)| Ok(format!("{}={}", field.name(), value(part, row)?)))
                .collect::<Result<Vec<_>>>()?;
            format!("{{{}}}", values.join(","))
        }
        other => return Err(format!("no words for {other}").into()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
