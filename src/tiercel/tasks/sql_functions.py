"""Names that a read-only query may write before a parenthesis: functions that only compute, types, and keywords.

The lists say what is allowed; a name that is missing is refused. Left out on purpose: whatever reads or writes files,
loads code, sleeps, locks, draws from a sequence, changes a setting, runs SQL from a text, or reaches another server.
"""

from __future__ import annotations

__all__ = ["FUNCTIONS", "GRAMMAR_WORDS", "NO_PARENTHESES", "words"]


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_BOTH = words("""
    abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char_length coalesce concat concat_ws cos cosh count
    cume_dist date degrees dense_rank exp first_value floor glob lag last_value lead length like ln log log10 lower
    lpad ltrim max min mod nth_value ntile nullif octet_length percent_rank pi power radians random rank replace round
    row_number rpad rtrim sign sin sinh sqrt substr substring sum tan tanh time trim trunc upper
""")

_SQLITE = words("""
    changes char datetime format generate_series group_concat hex if ifnull iif instr json json_array json_array_length
    json_each json_error_position json_extract json_group_array json_group_object json_insert json_object json_patch
    json_pretty json_quote json_remove json_replace json_set json_tree json_type json_valid jsonb jsonb_array
    jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace
    jsonb_set julianday last_insert_rowid likelihood likely log2 match median percentile percentile_cont percentile_disc
    pow printf quote randomblob regexp soundex sqlite_version strftime string_agg subtype timediff total total_changes
    typeof unhex unicode unistr unixepoch unlikely zeroblob
""")

_POSTGRES = words("""
    acosd age any_value area array_agg array_append array_cat array_dims array_fill array_length array_lower array_ndims
    array_position array_positions array_prepend array_remove array_replace array_to_json array_to_string
    array_to_tsvector array_upper ascii asind atan2d atand bit_and bit_length bit_or bit_xor bool_and bool_or bound_box
    box btrim cardinality cbrt center character_length chr circle clock_timestamp convert_from convert_to corr
    cosd cot cotd covar_pop covar_samp current_catalog current_database current_schema current_schemas date_bin
    date_part date_trunc daterange decode diagonal diameter div encode enum_first enum_last enum_range erf erfc every
    extract factorial family format format_type gcd generate_series generate_subscripts get_bit get_byte
    greatest height host hostmask inet_merge inet_same_family initcap int4range int8range isclosed isempty isfinite
    isopen json json_agg json_agg_strict json_array json_array_elements json_array_elements_text json_array_length
    json_arrayagg json_build_array json_build_object json_each json_each_text json_exists json_extract_path
    json_extract_path_text json_object json_object_agg json_object_keys json_objectagg json_populate_record
    json_populate_recordset json_query json_scalar json_strip_nulls json_to_record json_to_recordset json_typeof
    json_value jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
    jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object
    jsonb_object_agg jsonb_object_keys jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array
    jsonb_path_query_first jsonb_populate_record jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls
    jsonb_to_record jsonb_to_recordset jsonb_typeof justify_days justify_hours justify_interval lcm least left line
    localtime localtimestamp lower_inc lower_inf lseg make_date make_interval make_time make_timestamp make_timestamptz
    masklen md5 min_scale mode multirange netmask network normalize now npoints num_nonnulls num_nulls numnode
    numrange obj_description overlay parse_ident path pclose percentile_cont percentile_disc phraseto_tsquery
    plainto_tsquery point polygon popen position pow quote_ident quote_literal quote_nullable radius range_agg
    range_intersect_agg range_merge regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace
    regexp_split_to_array regexp_split_to_table regexp_substr regr_avgx regr_avgy regr_count regr_intercept regr_r2
    regr_slope regr_sxx regr_sxy regr_syy repeat reverse right row row_to_json scale set_masklen setweight sha224 sha256
    sha384 sha512 similarity sind slope split_part starts_with statement_timestamp stddev stddev_pop stddev_samp
    string_agg string_to_array string_to_table strip strpos tand text timeofday timezone to_ascii to_char to_date to_hex
    to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim_array
    trim_scale ts_delete ts_filter ts_headline ts_rank ts_rank_cd tsquery_phrase tsrange tstzrange unistr unnest
    upper_inc upper_inf var_pop var_samp variance version websearch_to_tsquery width width_bucket word_similarity
""")

FUNCTIONS: dict[str, frozenset[str]] = {"sqlite": _BOTH | _SQLITE, "postgres": _BOTH | _POSTGRES}
"""Functions that only compute, by dialect, in lower case."""

GRAMMAR_WORDS = words("""
    all and any array as between bernoulli bigint bit by case cast char character collate cross cube dec decimal
    distinct double else end escape except exists filter first float from full group having ilike in inner int integer
    intersect interval is join last lateral left like limit materialized natural next not nullif numeric nvarchar offset
    on or order ordinality over partition precision preceding real recursive right rollup rows select sets similar
    smallint some system table then time timestamp timestamptz union using values varbit varchar varying when where
    window with within
""")
"""Keywords and types that may stand before a parenthesis; none of them is a function that does more than compute."""

NO_PARENTHESES = words("""
    current_catalog current_date current_role current_schema current_time current_timestamp current_user localtime
    localtimestamp session_user system_user user
""")
"""Functions that are written without parentheses."""
