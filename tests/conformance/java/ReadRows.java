import java.io.File;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import org.apache.parquet.conf.ParquetConfiguration;
import org.apache.parquet.conf.PlainParquetConfiguration;
import org.apache.parquet.example.data.Group;
import org.apache.parquet.filter2.compat.FilterCompat;
import org.apache.parquet.filter2.predicate.FilterApi;
import org.apache.parquet.filter2.predicate.FilterPredicate;
import org.apache.parquet.hadoop.ParquetReader;
import org.apache.parquet.hadoop.api.ReadSupport;
import org.apache.parquet.hadoop.example.GroupReadSupport;
import org.apache.parquet.io.InputFile;
import org.apache.parquet.io.LocalInputFile;
import org.apache.parquet.io.api.Binary;
import org.apache.parquet.schema.GroupType;
import org.apache.parquet.schema.LogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.DateLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.DecimalLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.Float16LogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.ListLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.StringLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.TimestampLogicalTypeAnnotation;
import org.apache.parquet.schema.Type;

/**
 * Prints every row of Parquet files, by parquet-java, in the words of tests/conformance/rows.py.
 *
 * <p>Each file is read three times: `whole`; in `splits` of bytes, as Spark hands a file to its tasks, one after the
 * other; and `one`, the row in the middle, found by its id through statistics and page indexes. Usage: java ReadRows
 * SPLITS FILE...
 */
public final class ReadRows {
  private static final HexFormat HEX = HexFormat.of();
  private static final String ID = "_id";
  private static final String VECTOR = "embedding";

  public static void main(String[] arguments) throws IOException {
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.US_ASCII);
    long splits = Long.parseLong(arguments[0]);
    for (int number = 1; number < arguments.length; number++) {
      Path path = Path.of(arguments[number]);
      long size = new File(arguments[number]).length();
      List<Object> ids = new ArrayList<>();
      section(out, path, "whole", () -> read(path, 0, size, null, ids, out));
      section(
          out,
          path,
          "splits",
          () -> {
            long step = size / splits + 1;
            for (long start = 0; start < size; start += step) {
              read(path, start, Math.min(start + step, size), null, new ArrayList<>(), out);
            }
          });
      section(out, path, "one", () -> read(path, 0, size, ids.get(ids.size() / 2), new ArrayList<>(), out));
    }
    out.flush();
  }

  private interface Reading {
    void run() throws IOException;
  }

  private static void section(PrintStream out, Path path, String what, Reading reading) {
    out.println("# " + what + " " + path);
    try {
      reading.run();
    } catch (IOException | RuntimeException error) {
      out.println("! " + error.toString().replace('\n', ' '));
    }
  }

  private static final class Builder extends ParquetReader.Builder<Group> {
    Builder(InputFile file, ParquetConfiguration configuration) {
      super(file, configuration);
    }

    @Override
    protected ReadSupport<Group> getReadSupport() {
      return new GroupReadSupport();
    }
  }

  /** Print the rows of the row groups whose middle lies in a range of bytes; only those with an id where one is given. */
  private static void read(Path path, long start, long end, Object wanted, List<Object> ids, PrintStream out)
      throws IOException {
    ParquetReader.Builder<Group> builder =
        new Builder(new LocalInputFile(path), new PlainParquetConfiguration()).usePageChecksumVerification();
    builder = builder.withFileRange(start, end);
    if (wanted != null) {
      builder = builder.withFilter(FilterCompat.get(equalTo(wanted)));
    }
    try (ParquetReader<Group> reader = builder.build()) {
      for (Group row = reader.read(); row != null; row = reader.read()) {
        GroupType schema = row.getType();
        ids.add(id(row));
        StringBuilder line = new StringBuilder();
        for (int field = 0; field < schema.getFieldCount(); field++) {
          line.append(field == 0 ? "" : "\t").append(schema.getFieldName(field)).append('=');
          line.append(schema.getFieldName(field).equals(VECTOR) ? vector(row.getGroup(field, 0)) : value(row, field));
        }
        out.println(line);
      }
    }
  }

  private static Object id(Group row) {
    int field = row.getType().getFieldIndex(ID);
    return switch (row.getType().getType(field).asPrimitiveType().getPrimitiveTypeName()) {
      case INT64 -> row.getLong(field, 0);
      default -> row.getBinary(field, 0).copy();
    };
  }

  private static FilterPredicate equalTo(Object id) {
    return id instanceof Long number
        ? FilterApi.eq(FilterApi.longColumn(ID), number)
        : FilterApi.eq(FilterApi.binaryColumn(ID), (Binary) id);
  }

  /** A vector as the bytes of its numbers, little endian. */
  private static String vector(Group list) {
    int length = list.getFieldRepetitionCount(0);
    StringBuilder text = new StringBuilder();
    String name = "";
    for (int number = 0; number < length; number++) {
      Group element = list.getGroup(0, number);
      Type type = element.getType().getType(0);
      if (type.getLogicalTypeAnnotation() instanceof Float16LogicalTypeAnnotation) {
        name = "f16:";
        text.append(HEX.formatHex(element.getBinary(0, 0).getBytes()));
      } else {
        name = "f32:";
        text.append(HEX.toHexDigits(Integer.reverseBytes(Float.floatToRawIntBits(element.getFloat(0, 0)))));
      }
    }
    return name + text;
  }

  private static String value(Group group, int field) {
    if (group.getFieldRepetitionCount(field) == 0) {
      return "null";
    }
    Type type = group.getType().getType(field);
    LogicalTypeAnnotation logical = type.getLogicalTypeAnnotation();
    if (!type.isPrimitive()) {
      Group inner = group.getGroup(field, 0);
      List<String> values = new ArrayList<>();
      if (logical instanceof ListLogicalTypeAnnotation) {
        for (int number = 0; number < inner.getFieldRepetitionCount(0); number++) {
          values.add(value(inner.getGroup(0, number), 0));
        }
        return "[" + String.join(",", values) + "]";
      }
      for (int number = 0; number < inner.getType().getFieldCount(); number++) {
        values.add(inner.getType().getFieldName(number) + "=" + value(inner, number));
      }
      return "{" + String.join(",", values) + "}";
    }
    return switch (type.asPrimitiveType().getPrimitiveTypeName()) {
      case BOOLEAN -> String.valueOf(group.getBoolean(field, 0));
      case INT32 -> (logical instanceof DateLogicalTypeAnnotation ? "days:" : "") + group.getInteger(field, 0);
      case INT64 -> (logical instanceof TimestampLogicalTypeAnnotation stamp ? unit(stamp) : "") + group.getLong(field, 0);
      case FLOAT -> "f32:" + HEX.toHexDigits(Integer.reverseBytes(Float.floatToRawIntBits(group.getFloat(field, 0))));
      case DOUBLE ->
          "f64:" + HEX.toHexDigits(Long.reverseBytes(Double.doubleToRawLongBits(group.getDouble(field, 0))));
      case BINARY, FIXED_LEN_BYTE_ARRAY -> bytes(group.getBinary(field, 0), logical);
      default -> throw new IllegalArgumentException("no words for " + type);
    };
  }

  private static String unit(TimestampLogicalTypeAnnotation stamp) {
    return stamp.getUnit().name().toLowerCase() + (stamp.isAdjustedToUTC() ? ":" : "-local:");
  }

  private static String bytes(Binary binary, LogicalTypeAnnotation logical) {
    if (logical instanceof DecimalLogicalTypeAnnotation decimal) {
      return "decimal:" + new java.math.BigInteger(binary.getBytes()) + "e-" + decimal.getScale();
    }
    return (logical instanceof StringLogicalTypeAnnotation ? "text:" : "bytes:") + HEX.formatHex(binary.getBytes());
  }
}
